//! The client of one serve connection, against serve loops of every version over streams that pass eight bytes at a time,
//! and against the real `nix-store --serve`.

mod support;

use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use ssh_substituter::backend::LocalBackend;
use ssh_substituter::config::host::Host;
use ssh_substituter::local_store::LocalStore;
use ssh_substituter::model::StorePath;
use ssh_substituter::remote::{
    ConnectOptions, Connection, LearntProgram, RemoteError, RemoteErrorKind, Request, connect,
};
use ssh_substituter::serve::{Output, serve};
use ssh_substituter::transport::process::ProcessTransport;
use ssh_substituter::transport::{Channel, Child, Program, Transport, TransportError};
use ssh_substituter::wire::nar::{Decoder, Event};
use ssh_substituter::wire::serve::Version;
use ssh_substituter::wire::{put_string, put_u64};
use support::{DagOptions, Store};
use tokio::io::AsyncWriteExt;

/// A serve loop of some version at the other end of narrow streams, with something printed before its magic.
struct Narrow {
    root: std::path::PathBuf,
    newest: Version,
    banner: Vec<u8>,
}

struct Nobody;

#[async_trait]
impl Child for Nobody {
    async fn wait(self: Box<Self>) -> Option<i32> {
        Some(0)
    }
}

#[async_trait]
impl Transport for Narrow {
    async fn open(&self, _: &Host, _: Program) -> Result<Channel, TransportError> {
        let (stdin, server_in) = tokio::io::duplex(8);
        let (stdout, mut server_out) = tokio::io::duplex(8);
        let backend = LocalBackend::new(LocalStore::open(&self.root).unwrap());
        let (newest, banner) = (self.newest, self.banner.clone());
        tokio::spawn(async move {
            server_out.write_all(&banner).await.unwrap();
            let _ = serve(server_in, Output::new(server_out), &backend, newest).await;
        });
        Ok(Channel {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(tokio::io::empty()),
            child: Box::new(Nobody),
            opened_in: None,
        })
    }
}

async fn try_connect(transport: &dyn Transport) -> Result<Connection, RemoteError> {
    connect_asking(transport, &[]).await
}

async fn connect_asking(
    transport: &dyn Transport,
    ahead: &[Request],
) -> Result<Connection, RemoteError> {
    let options = ConnectOptions {
        connect: Duration::from_secs(5),
        silence: Duration::from_secs(5),
        program: &LearntProgram::default(),
    };
    connect(transport, &Host::parse("example").unwrap(), &options, ahead).await
}

fn paths(paths: &[String]) -> Vec<StorePath> {
    paths
        .iter()
        .map(|path| StorePath::parse(path).unwrap())
        .collect()
}

/// Reads a NAR that was asked for, to its end.
async fn nar(connection: &mut Connection) -> Vec<u8> {
    let (mut decoder, mut out) = (Decoder::new(1 << 30), Vec::new());
    loop {
        let (read, event) = decoder.step(connection.buffer()).unwrap();
        let (ended, hungry) = (event == Some(Event::End), event.is_none());
        out.extend_from_slice(&connection.buffer().split_to(read));
        if ended {
            connection.end_dump();
            return out;
        }
        if hungry {
            connection.nar_bytes().await.unwrap();
        }
    }
}

/// What is asked before the handshake.
fn ahead(all: &[String]) -> [Request; 4] {
    let paths = paths(all);
    let root = vec![paths.last().unwrap().clone()];
    let include_outputs = false;
    [
        Request::DumpStorePath {
            path: paths[1].clone(),
        },
        Request::QueryClosure {
            include_outputs,
            paths: root,
        },
        Request::QueryPathInfos {
            paths: paths.clone(),
        },
        Request::DumpStorePath {
            path: paths[0].clone(),
        },
    ]
}

/// Reads the replies to [`ahead`], and to questions that are asked before these have been read.
async fn read_ahead(connection: &mut Connection, store: &Store, all: &[String]) {
    let known = paths(all);
    connection.start_path_infos(&known[..1]);
    connection.start_closure(&known[..1], false);
    assert!(!connection.is_clean());
    assert_eq!(nar(connection).await, store.nar(&all[1]));
    let closure = connection.finish_closure(&known).await.unwrap();
    assert_eq!(closure.len(), known.len());
    let infos = connection.finish_path_infos(&known).await.unwrap();
    assert_eq!(infos.len(), known.len());
    assert_eq!(nar(connection).await, store.nar(&all[0]));
    let infos = connection.finish_path_infos(&known[..1]).await.unwrap();
    assert_eq!(infos[0].path, known[0]);
    assert_eq!(connection.finish_closure(&known).await.unwrap(), known[..1]);
    assert!(connection.is_clean());
}

/// Everything that can be asked, several times on one connection, some of it written ahead.
async fn converse(connection: &mut Connection, store: &Store, all: &[String]) {
    let known = paths(all);
    let absent = paths(&["/nix/store/00000000000000000000000000000000-absent".to_owned()]);
    for _ in 0..2 {
        assert_eq!(connection.query_path_infos(&absent).await.unwrap(), []);
        let mut infos = connection.query_path_infos(&known).await.unwrap();
        infos.sort_by_key(|info| all.iter().position(|path| path == info.path.as_str()));
        assert_eq!(infos.len(), all.len());
        for (info, path) in infos.iter().zip(all) {
            let has_hash = connection.version().has_hash();
            let hash = info.nar_hash.map(|hash| hash.to_string());
            assert_eq!(hash, has_hash.then(|| store.nar_hash(path)));
            assert_eq!(info.nar_size, store.nar_size(path));
            let references: Vec<_> = info
                .references
                .iter()
                .map(|r| r.as_str().to_owned())
                .collect();
            assert_eq!(references, store.references(path));
        }
        let root = std::slice::from_ref(known.last().unwrap());
        let mut closure = connection.query_closure(root, false).await.unwrap();
        closure.sort();
        let mut expected = known.clone();
        expected.sort();
        assert_eq!(closure, expected);
        // Three NARs asked for ahead come in order.
        known[..3]
            .iter()
            .for_each(|path| connection.start_dump(path));
        for path in &all[..3] {
            assert!(!connection.is_clean());
            assert_eq!(nar(connection).await, store.nar(path));
        }
        assert!(connection.is_clean());
        assert!(!connection.is_closed_by_remote());
    }
}

#[tokio::test]
async fn servers_of_every_version_are_understood() {
    let store = Store::new();
    let dag = store.dag(12, DagOptions::default());
    for minor in [0, 1, 2, 3, 4, 5, 6, 7, 8] {
        let transport = Narrow {
            root: store.root().to_owned(),
            newest: Version::new(2, minor),
            banner: b"Welcome\r\nhave fun\n".to_vec(),
        };
        let mut connection = connect_asking(&transport, &ahead(&dag.paths))
            .await
            .unwrap();
        read_ahead(&mut connection, &store, &dag.paths).await;
        assert_eq!(connection.version(), Version::new(2, minor));
        assert_eq!(connection.banner(), b"Welcome\r\nhave fun\n");
        converse(&mut connection, &store, &dag.paths).await;
    }
}

#[tokio::test]
async fn the_real_nix_store_is_understood() {
    let store = Store::new();
    let dag = store.dag(12, DagOptions::default());
    let real = store.serve(false);
    let (program, args): (_, Vec<_>) = (
        real.get_program().to_owned(),
        real.get_args().map(Into::into).collect(),
    );
    let env: Vec<_> = real
        .get_envs()
        .map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned)))
        .collect();
    let transport = ProcessTransport::new(move |_| {
        let mut command = Command::new(&program);
        command.args::<_, std::ffi::OsString>(args.clone());
        for (name, value) in &env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    });
    let mut connection = connect_asking(&transport, &ahead(&dag.paths))
        .await
        .unwrap();
    let handshake = connection.latency().shortest().unwrap();
    read_ahead(&mut connection, &store, &dag.paths).await;
    assert_eq!(
        connection.latency().shortest(),
        Some(handshake),
        "what was asked before the program had started tells nothing of the link"
    );
    converse(&mut connection, &store, &dag.paths).await;
    // Asked for a path that it has not, it ends; the connection is never used again.
    let absent = paths(&["/nix/store/00000000000000000000000000000000-absent".to_owned()]);
    connection.start_dump(&absent[0]);
    let error = connection.nar_bytes().await.unwrap_err();
    assert!(error.stderr.contains("is not valid"), "{error}");
    assert!(!connection.is_clean());
}

#[tokio::test]
async fn requests_do_not_wait_for_the_servers_hello() {
    let store = Store::new();
    let path = store.add_text("text", "text", &[]);
    let ahead = [Request::DumpStorePath {
        path: StorePath::parse(&path).unwrap(),
    }];
    let mut request = Vec::new();
    ahead[0].put(&mut request);
    let both = 16 + request.len();
    let file = store.root().join("nar");
    std::fs::write(&file, store.nar(&path)).unwrap();
    // Says nothing before it has read hello and request.
    let script = format!(
        "dd bs=1 count={both} of=/dev/null 2>/dev/null; \
         printf '\\313\\356\\122\\124\\0\\0\\0\\0\\7\\2\\0\\0\\0\\0\\0\\0'; \
         cat {}; sleep 5",
        file.display()
    );
    let script = self::script(Box::leak(script.into_boxed_str()));
    let mut connection = connect_asking(&script, &ahead).await.unwrap();
    assert!(!connection.is_clean());
    assert_eq!(nar(&mut connection).await, store.nar(&path));
    assert!(connection.is_clean());
}

/// A remote that is a shell script.
fn script(script: &'static str) -> ProcessTransport {
    ProcessTransport::new(move |_| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    })
}

#[tokio::test]
async fn what_is_no_serve_loop_is_refused() {
    let said = async |text| match try_connect(&script(text)).await {
        Ok(_) => panic!("connected to {text:?}"),
        Err(error) => error.to_string(),
    };
    let ended = said("echo what is this >&2; exit 3").await;
    assert!(
        ended.contains("exit status 3") && ended.contains("what is this"),
        "{ended}"
    );
    let printed = said("echo This account is currently not available.").await;
    assert!(printed.contains("not available"), "{printed}");
    let old = said(r"printf '\313\356\122\124\0\0\0\0\1\1\0\0\0\0\0\0'; sleep 1").await;
    assert!(old.contains("1.1") && old.contains("2.0"), "{old}");
    let endless = said("yes").await;
    assert!(endless.contains("magic"), "{endless}");
    let silent = said("sleep 20").await;
    assert!(
        silent.contains("no handshake") && silent.contains("5 s"),
        "{silent}"
    );
}

#[tokio::test]
async fn a_program_that_is_not_found_is_looked_for_in_the_usual_places() {
    /// Fails as a shell does until it is asked for the usual places.
    struct Hidden(Narrow);
    #[async_trait]
    impl Transport for Hidden {
        async fn open(&self, host: &Host, program: Program) -> Result<Channel, TransportError> {
            if program == Program::AsConfigured {
                return script("echo nix-store: command not found >&2; exit 127")
                    .open(host, program)
                    .await;
            }
            self.0.open(host, program).await
        }
    }
    let store = Store::new();
    let path = store.add_text("text", "text", &[]);
    let transport = Hidden(Narrow {
        root: store.root().to_owned(),
        newest: Version::NEWEST,
        banner: Vec::new(),
    });
    let learnt = LearntProgram::default();
    let options = ConnectOptions {
        connect: Duration::from_secs(5),
        silence: Duration::from_secs(5),
        program: &learnt,
    };
    let host = Host::parse("example").unwrap();
    let dump = Request::DumpStorePath {
        path: StorePath::parse(&path).unwrap(),
    };
    let mut connection = connect(&transport, &host, &options, &[dump]).await.unwrap();
    assert_eq!(nar(&mut connection).await, store.nar(&path));
    assert!(connection.is_clean(), "asked twice, owed once");
    assert_eq!(
        learnt.get(),
        Program::InUsualPlaces,
        "remembered for the next connection"
    );
}

#[tokio::test]
async fn silence_and_lies_end_the_exchange() {
    // Handshakes, then what follows.
    let magic = r"printf '\313\356\122\124\0\0\0\0\7\2\0\0\0\0\0\0';";
    let ask = async |rest: &str| {
        let script: &'static str = Box::leak(format!("{magic} {rest}").into_boxed_str());
        let transport = self::script(script);
        let options = ConnectOptions {
            connect: Duration::from_secs(5),
            silence: Duration::from_millis(600),
            program: &LearntProgram::default(),
        };
        let host = Host::parse("example").unwrap();
        let mut connection = connect(&transport, &host, &options, &[]).await.unwrap();
        let path = paths(&["/nix/store/00000000000000000000000000000000-asked".to_owned()]);
        let error = connection.query_path_infos(&path).await.unwrap_err();
        assert!(!connection.is_clean());
        error
    };
    let silent = ask("sleep 20").await;
    assert!(
        matches!(silent.kind, RemoteErrorKind::Silent { .. }),
        "{silent}"
    );
    let gone = ask("sleep 0.2; echo bye >&2").await;
    assert!(gone.to_string().contains("bye"), "{gone}");
    let mut other = Vec::new();
    put_string(
        &mut other,
        b"/nix/store/00000000000000000000000000000000-other",
    );
    put_string(&mut other, b"");
    [0, 1, 1]
        .iter()
        .for_each(|number| put_u64(&mut other, *number));
    put_string(&mut other, format!("sha256:{}", "0".repeat(52)).as_bytes());
    put_string(&mut other, b"");
    put_u64(&mut other, 0);
    let octal: String = other.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let lie = ask(&format!("printf '{octal}'; sleep 5")).await;
    assert!(
        matches!(lie.kind, RemoteErrorKind::Unsolicited { .. }),
        "{lie}"
    );
    let malformed = ask("yes").await;
    assert!(
        matches!(malformed.kind, RemoteErrorKind::Protocol { .. }),
        "{malformed}"
    );
}
