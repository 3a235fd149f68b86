//! "Hosts" without ssh: each is this very example once more, as a child process that serves a store.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use ssh_substituter::backend::LocalBackend;
use ssh_substituter::config::host::Host;
use ssh_substituter::front;
use ssh_substituter::local_store::LocalStore;
use ssh_substituter::serve::{self, Output};
use ssh_substituter::transport::process::ProcessTransport;
use ssh_substituter::wire::serve::Version;

use super::Outcome;

/// With this argument an example is the serve loop at the other end.
const SERVE: &str = "serve-local";

/// The store that this process is to serve, if it was started as a "host".
pub fn serves() -> Option<PathBuf> {
    let mut args = std::env::args_os().skip(1);
    let root = args.next().filter(|arg| arg == SERVE).and(args.next())?;
    Some(root.into())
}

/// Serves a store on stdin and stdout until the caller has enough.
pub async fn serve(root: &Path) -> Outcome {
    let backend = LocalBackend::new(LocalStore::open(root)?);
    serve::serve(
        front::stdin(),
        Output::new(front::stdout()),
        &backend,
        Version::NEWEST,
    )
    .await?;
    Ok(())
}

/// Leads to "hosts" whose stores are in `folder`, under their names.
pub fn transport(folder: &Path) -> io::Result<ProcessTransport> {
    let (example, folder) = (std::env::current_exe()?, folder.to_owned());
    Ok(ProcessTransport::new(move |host: &Host| {
        let mut command = Command::new(&example);
        command.arg(SERVE).arg(folder.join(&host.name));
        command
    }))
}
