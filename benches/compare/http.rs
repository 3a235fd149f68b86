//! A real Nix fetches closures over HTTP: from the program's server, and from nginx with a plain binary cache on its disk.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{Lab, Line, Link};
use crate::realise::{LIMIT, realise, theirs};
use crate::run::{Deadline, Run, Runs, Tried, Watch, high_water};
use crate::support::{DagOptions, Masters, Nix, NixEnv, Scratch, Store, run, wait_until};
use crate::table::{Goal, Row, Table};

/// As many connections as Nix opens.
const CONNECTIONS: usize = 25;

/// The program's server, with nothing cached and no connection to a host yet.
struct Server {
    // Dropped in this order.
    process: Deadline,
    _masters: Masters,
    address: SocketAddr,
    link: Link,
    _env: NixEnv,
}

impl Server {
    fn start(hosts: &[String], link: Link) -> Result<Self, String> {
        let env = NixEnv::new();
        env.configure(hosts, "");
        let log = env.folder().join("http.log");
        let mut command = env.program();
        command
            .args(["http", "--listen", "127.0.0.1:0"])
            .env("NIX_SSHOPTS", link.options())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).map_err(|error| error.to_string())?);
        let process = Deadline::start(command, LIMIT)?;
        let mut address = None;
        wait_until("the server listens", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let said = text.split_once("serves on http://");
            address = said.and_then(|(_, rest)| rest.lines().next()?.parse().ok());
            address.is_some()
        });
        Ok(Self {
            process,
            _masters: env.masters(),
            address: address.ok_or("no address")?,
            link,
            _env: env,
        })
    }

    /// A new Nix with an empty store fetches these paths.
    fn fetch(&self, paths: &[impl AsRef<str>]) -> Tried {
        let url = format!("http://{}?trusted=true", self.address);
        let nix = Nix::new().substituters(&url);
        let run = realise(&nix, &self.link, paths, Watch::Nothing, LIMIT)?;
        let peak = high_water(self.process.child.id());
        Ok(Run { peak, ..run })
    }
}

/// nginx in front of a binary cache that is not compressed.
struct Nginx {
    _process: Deadline,
    port: u16,
    _folder: Scratch,
}

impl Nginx {
    fn start(store: &Store, paths: &[impl AsRef<str>]) -> Result<Self, String> {
        let folder = Scratch::new();
        let cache = folder.folder("cache");
        let mut copy = store.command("nix");
        copy.args(["copy", "--no-check-sigs", "--to"])
            .arg(format!("file://{}?compression=none", cache.display()))
            .args(paths.iter().map(AsRef::as_ref));
        run(copy, LIMIT);
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.map_err(|error| error.to_string())?.port();
        let root = folder.path().display();
        let conf = format!(
            "daemon off;\nmaster_process off;\nuser root;\npid {root}/pid;\nerror_log {root}/error.log;\nevents {{}}\nhttp {{\n\
             access_log off;\nsendfile on;\nclient_body_temp_path {root}/body;\nproxy_temp_path {root}/proxy;\n\
             fastcgi_temp_path {root}/fastcgi;\nuwsgi_temp_path {root}/uwsgi;\nscgi_temp_path {root}/scgi;\n\
             server {{ listen 127.0.0.1:{port}; root {root}/cache; }}\n}}\n"
        );
        let conf = folder.write("nginx.conf", conf);
        let mut command = Command::new("nginx");
        command
            .arg("-c")
            .arg(conf)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Deadline::start(command, LIMIT)?;
        wait_until("nginx listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Ok(Self {
            _process: process,
            port,
            _folder: folder,
        })
    }

    fn fetch(&self, paths: &[impl AsRef<str>]) -> Tried {
        let url = format!("http://127.0.0.1:{}?trusted=true", self.port);
        let nix = Nix::new().substituters(&url);
        let link = Link::to_any(Line::rtt(0));
        realise(&nix, &link, paths, Watch::Nothing, LIMIT)
    }
}

/// A closure without latency, beside nginx.
fn beside_nginx(lab: &Lab, table: &mut Table, title: &str, paths: &[impl AsRef<str>], goal: f64) {
    let host = lab.host();
    let (mut cold, mut warm, mut theirs) = (Runs::default(), Runs::default(), Runs::default());
    let nginx = Nginx::start(&host.store, paths);
    for _ in 0..lab.options.runs {
        match Server::start(&[host.trusted()], Link::to(&host.sshd, Line::rtt(0))) {
            Ok(server) => {
                cold.push("ours, cold", server.fetch(paths));
                warm.push("ours, warm", server.fetch(paths));
            }
            Err(error) => cold.push("ours, cold", Err(error)),
        }
        match &nginx {
            Ok(nginx) => theirs.push("nginx", nginx.fetch(paths)),
            Err(error) => theirs.push("nginx", Err(error.clone())),
        }
    }
    let row = |name: &str, runs: &Runs| Row {
        name: format!("{title}: {name}"),
        unit: "s",
        ours: runs.seconds(),
        other: theirs.seconds(),
        beside: "nginx",
        peak: runs.peak(),
        trouble: [runs.trouble(), theirs.trouble()].concat(),
        ..Row::default()
    };
    table.add(row("realise, cold", &cold));
    table.add(Row {
        goal: Some(Goal::Ratio(goal)),
        ..row("realise, warm", &warm)
    });
}

/// A closure of many small paths.
pub fn dag(lab: &Lab, table: &mut Table, rtt: u64, goal: f64) {
    let title = format!("http dag{}, {rtt} ms", lab.dag_count());
    if !lab.wants(&title) {
        return;
    }
    let paths = [lab.dag()];
    if rtt == 0 {
        return beside_nginx(lab, table, &title, &paths, goal);
    }
    let (host, line) = (lab.host(), Line::rtt(rtt));
    let (mut cold, mut other) = (Runs::default(), Runs::default());
    for run in 0..lab.options.runs {
        let server = Server::start(&[host.trusted()], Link::to(&host.sshd, line));
        let fetched = server.and_then(|server| server.fetch(&paths));
        cold.push("ours, cold", fetched);
        if run < lab.their_runs(rtt) {
            other.push(
                "ssh://",
                theirs("ssh", &host.sshd, &host.store, line, &paths),
            );
        }
    }
    table.add(Row {
        name: format!("{title}: realise, cold"),
        unit: "s",
        ours: cold.seconds(),
        other: other.seconds(),
        beside: "ssh://",
        goal: Some(Goal::Ratio(goal)),
        peak: cold.peak(),
        trouble: [cold.trouble(), other.trouble()].concat(),
    });
}

/// A closure of large paths.
pub fn big(lab: &Lab, table: &mut Table, goal: f64) {
    let title = "http big1g, 0 ms";
    if lab.wants(title) {
        beside_nginx(lab, table, title, &lab.big()[20..], goal);
    }
}

/// What 1,000 paths are, none of which was heard of, as 25 connections ask it.
pub fn questions(lab: &Lab, table: &mut Table, rtt: u64) {
    let count = lab.scaled(1000) as usize;
    let title = format!("http {count} narinfos, {rtt} ms");
    if !lab.wants(&title) {
        return;
    }
    let host = lab.host();
    let shape = DagOptions {
        seed: 3,
        ..DagOptions::default()
    };
    let dag = host.store.dag(count, shape);
    let paths: Vec<&String> = dag.paths.iter().rev().collect();
    let mut runs = Runs::default();
    for _ in 0..lab.options.runs {
        let link = Link::to(&host.sshd, Line::rtt(rtt));
        let tried = Server::start(&[host.trusted()], link).and_then(|server| {
            // The login is another matter.
            ask(
                server.address,
                &[&paths[0].replace("/nix/store/", "/nix/store/0")],
                1,
            )?;
            let start = Instant::now();
            ask(server.address, &paths, CONNECTIONS)?;
            Ok(Run {
                seconds: start.elapsed().as_secs_f64(),
                ..Run::default()
            })
        });
        runs.push("ours", tried);
    }
    table.add(Row {
        name: format!("{title}: asked by {CONNECTIONS} connections"),
        unit: "s",
        ours: runs.seconds(),
        goal: Some(Goal::Most(0.3 + 3.0 * rtt as f64 / 1000.0)),
        trouble: runs.trouble(),
        ..Row::default()
    });
}

/// Asks what these paths are, over so many connections; the order is that of the list.
fn ask(
    address: SocketAddr,
    paths: &[impl AsRef<str> + Sync],
    connections: usize,
) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let work = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = path.as_ref().rsplit('/').next().unwrap_or_default();
            let request = format!(
                "GET /{}.narinfo HTTP/1.1\r\nHost: localhost\r\n\r\n",
                &name[..32]
            );
            stream.write_all(request.as_bytes())?;
            read_response(&mut stream)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        all.into_iter().try_for_each(|one| match one.join() {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(_) => Err("a connection panicked".to_owned()),
        })
    })
}

/// Reads a response with a Content-Length to its end.
fn read_response(stream: &mut TcpStream) -> std::io::Result<()> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length: usize = lengths
                .next()
                .and_then(|(_, value)| value.parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return Ok(());
            }
        }
        let len = stream.read(&mut piece)?;
        if len == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..len]);
    }
}
