//! The program as an HTTP server, and a client that sees each header and byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::support::{HttpServer, Masters, NixEnv, wait_until};

/// How long a server may be silent before a test fails.
const SILENCE: Duration = Duration::from_secs(60);

/// A server that runs. It ends when this is dropped.
pub struct Server {
    server: HttpServer,
    _masters: Masters,
}

impl Server {
    /// A server of this environment on any free port of loopback.
    pub fn start(env: &NixEnv) -> Self {
        Self::start_with(env, &[])
    }

    /// The same, with further arguments.
    pub fn start_with(env: &NixEnv, arguments: &[&str]) -> Self {
        let mut command = env.program();
        command.args(["http", "--listen", "127.0.0.1:0"]);
        command.args(arguments);
        command.stdin(Stdio::null());
        Self::with_stdin(env, command)
    }

    /// A server that this command starts, with its first address, and the standard input that the command has.
    pub fn with_stdin(env: &NixEnv, command: Command) -> Self {
        Self {
            server: HttpServer::start(command, env.folder()),
            _masters: env.masters(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn pid(&self) -> u32 {
        self.server.child.id()
    }

    /// For `substituters`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The same for a client that trusts all it gets.
    pub fn trusted(&self) -> String {
        self.server.trusted()
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        self.server.log()
    }

    pub fn connect(&self) -> Client {
        Client::new(self.address())
    }

    /// One request on a connection of its own.
    pub fn get(&self, path: &str) -> Reply {
        self.connect().get(path)
    }

    /// Ends it as systemd does. Panics unless it ends by itself.
    pub fn stop(mut self) -> String {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), Signal::TERM).expect("signal the server");
        wait_until("the server ends", || {
            self.server.child.try_wait().expect("wait").is_some()
        });
        self.log()
    }
}

/// One connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect to the server");
        stream
            .set_read_timeout(Some(SILENCE))
            .expect("limit the silence");
        Self {
            stream: BufReader::new(stream),
        }
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.request("GET", path, &[])
    }

    /// A request with further headers, and the response with its whole body.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut reply = self.begin(method, path, headers);
        if method != "HEAD" {
            let len = reply.length();
            let mut body = vec![0; len];
            self.stream.read_exact(&mut body).expect("the whole body");
            reply.body = body;
        }
        reply
    }

    /// The same up to the body.
    pub fn begin(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            text.push_str("Host: localhost\r\n");
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        self.send(text.as_bytes());
        self.head()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream
            .get_mut()
            .write_all(bytes)
            .expect("send a request");
    }

    /// Reads the head of a response.
    pub fn head(&mut self) -> Reply {
        let mut line = || {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("a line of a head");
            assert!(line.ends_with("\r\n"), "no line of a head: {line:?}");
            line.trim_end().to_owned()
        };
        let first = line();
        let status = first
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let mut headers = Vec::new();
        loop {
            let line = line();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect("a header");
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        Reply {
            status: status.unwrap_or_else(|| panic!("no status: {first:?}")),
            headers,
            body: Vec::new(),
        }
    }

    /// All that comes until the connection ends, and whether it ended in order.
    pub fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let ended = self.stream.read_to_end(&mut bytes).is_ok();
        (bytes, ended)
    }

    /// The next bytes of a body.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("bytes of a body");
        bytes
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(known, _)| known == name);
        let value = all.next().map(|(_, value)| value.as_str());
        assert!(all.next().is_none(), "{name} twice: {self:?}");
        value
    }

    /// Content-Length.
    pub fn length(&self) -> usize {
        let length = self.header("content-length").expect("a length");
        length.parse().expect("a number")
    }

    /// Panics unless it has this status.
    #[track_caller]
    pub fn status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text());
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a field of a narinfo.
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        let all = self.fields(name);
        assert_eq!(all.len(), 1, "{name}: {}", self.text());
        all[0].clone()
    }

    pub fn fields(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let values = text
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        values.map(|value| value.trim().to_owned()).collect()
    }
}

/// The URL of the narinfo of a path.
pub fn narinfo(path: &str) -> String {
    let base = path.rsplit('/').next().unwrap_or_default();
    format!("/{}.narinfo", &base[..32])
}
