use std::collections::HashSet;

use async_trait::async_trait;

use super::*;
use crate::backend::{Backend, BackendError, Undelivered};
use crate::http::{Passwords, Status};
use crate::model::StorePath;
use crate::transfer::NarSink;

/// Has nothing.
struct Nothing;

#[async_trait]
impl Backend for Nothing {
    async fn valid_paths(&self, _: &[StorePath]) -> Result<Vec<StorePath>, BackendError> {
        Ok(Vec::new())
    }

    async fn path_infos(&self, _: &[StorePath]) -> Result<Vec<PathInfo>, BackendError> {
        Ok(Vec::new())
    }

    async fn closure(&self, _: &[StorePath], _: bool) -> Result<Vec<StorePath>, BackendError> {
        Ok(Vec::new())
    }

    async fn deliver(&self, _: &StorePath, _: &mut dyn NarSink) -> Result<(), Undelivered> {
        Ok(())
    }
}

impl Client for Nothing {
    fn backend(&self) -> Box<dyn Backend> {
        Box::new(Self)
    }
}

impl Clients for Nothing {
    fn connect(&self, _: IpAddr) -> Box<dyn Client> {
        Box::new(Self)
    }

    fn status(&self) -> Status {
        Status::default()
    }
}

fn service(passwords: Option<Passwords>) -> Service {
    let options = Options {
        store_dir: "/nix/store".to_owned(),
        signing_key: None,
        passwords,
        packed_for: PackedFor::Others,
    };
    Service::new(Arc::new(Nothing), options)
}

async fn status(service: &Service, local: &str, credentials: Option<&str>) -> u16 {
    let mut request = Request::builder().uri("http://localhost/nix-cache-info");
    if let Some(credentials) = credentials {
        request = request.header(header::AUTHORIZATION, credentials);
    }
    let local = local.parse().unwrap();
    let request = request.body(()).unwrap();
    let response = service.answer(&request, local, &Nothing).await;
    let status = response.status();
    let asks = response.headers().contains_key(header::WWW_AUTHENTICATE);
    assert_eq!(asks, status == StatusCode::UNAUTHORIZED);
    status.as_u16()
}

#[tokio::test]
async fn passwords_are_for_those_who_come_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwords");
    std::fs::write(&file, "nix:secret\n").unwrap();
    let service = service(Some(Passwords::read(&file).unwrap()));
    // printf nix:secret | base64
    let (right, wrong) = ("Basic bml4OnNlY3JldA==", "Basic bml4OnNlY3JldAo=");
    for local in ["10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1"] {
        assert_eq!(status(&service, local, None).await, 401, "{local}");
        assert_eq!(status(&service, local, Some(wrong)).await, 401, "{local}");
        assert_eq!(status(&service, local, Some(right)).await, 200, "{local}");
    }
    for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(status(&service, local, None).await, 200, "{local}");
    }
}

#[tokio::test]
async fn without_a_file_nobody_needs_a_password() {
    let service = service(None);
    let mut seen = HashSet::new();
    for local in ["127.0.0.1", "10.0.0.1"] {
        seen.insert(status(&service, local, None).await);
    }
    assert_eq!(seen, HashSet::from([200]));
}

#[test]
fn nars_are_compressed_for_other_machines_unless_told_otherwise() {
    let mut service = service(None);
    for (packed_for, here, elsewhere) in [
        (PackedFor::Others, false, true),
        (PackedFor::All, true, true),
        (PackedFor::Nobody, false, false),
    ] {
        service.options.packed_for = packed_for;
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(service.is_packed_for(local.parse().unwrap()), here);
        }
        for local in ["10.0.0.1", "::ffff:10.0.0.1"] {
            assert_eq!(service.is_packed_for(local.parse().unwrap()), elsewhere);
        }
    }
}
