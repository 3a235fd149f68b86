//! The hosts of a run, as the core reaches them.

use std::sync::Arc;

use async_trait::async_trait;
use ssh_substituter::config;
use ssh_substituter::transport::{Channel, Program, Transport, TransportError};

use super::host::Host;

pub struct Hosts(pub Vec<Arc<Host>>);

#[async_trait]
impl Transport for Hosts {
    async fn open(
        &self,
        host: &config::host::Host,
        program: Program,
    ) -> Result<Channel, TransportError> {
        let far = self.0.iter().find(|far| far.plan.name == host.name);
        far.expect("a host of the plan").open(program).await
    }
}
