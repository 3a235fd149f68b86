//! What `doctor` says of Nix's substituters over HTTP.

use super::server::Server;
use super::support::{Got, Host, NixEnv, SHORT, closed_port, run_with_timeout};

fn doctor(env: &NixEnv) -> Got {
    let mut command = env.program();
    command.arg("doctor");
    Got(run_with_timeout(command, SHORT))
}

#[test]
fn doctor_finds_out_whether_the_server_answers() {
    let host = Host::new();
    let env = NixEnv::new();
    env.configure(&[host.trusted()], "");
    let server = Server::start(&env);
    env.add_conf(&format!("extra-substituters = {}", server.url()));
    let text = doctor(&env).stdout();
    for words in [
        &format!(
            "{}: ssh-substituter {} answers there",
            server.url(),
            env!("CARGO_PKG_VERSION")
        ),
        "set http-signing-key",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("no substituter of Nix leads"), "{text}");
    let gone = closed_port();
    env.add_conf(&format!(
        "substituters = http://127.0.0.1:{gone}?trusted=true"
    ));
    let text = doctor(&env).status(1).stdout();
    for words in [
        &format!("nobody answers at http://127.0.0.1:{gone}"),
        &format!("ssh-substituter http --listen 127.0.0.1:{gone}"),
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("set http-signing-key"), "{text}");
}
