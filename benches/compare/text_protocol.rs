//! The text protocol, driven as Nix 1.11 does: questions over one `--query` process, one `--substitute` process for each
//! path.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Lab, Line, Link};
use crate::run::{Deadline, Run, Runs, Tried, Watch, timed};
use crate::support::{self, Host, NixEnv, Scratch, tool};
use crate::table::{Goal, Row, Table};

/// The word that starts [`run`] instead of the table.
pub const NAME: &str = "text-protocol";
/// How long one process may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How long all processes for a closure may take.
const WHOLE: Duration = Duration::from_secs(200);

/// What `info` tells, as far as Nix follows it: references of each path.
type Infos = HashMap<String, Vec<String>>;

/// A running `--query`.
struct Query {
    process: Deadline,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Query {
    fn start(mut command: Command) -> Result<Self, String> {
        command
            .arg("--query")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = Deadline::start(command, LIMIT)?;
        let mut query = Self {
            stdin: process.child.stdin.take().expect("stdin is piped"),
            stdout: BufReader::new(process.child.stdout.take().expect("stdout is piped")),
            process,
        };
        // The first line is ignored.
        query.line()?;
        Ok(query)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(0) => Err("its output ended".to_owned()),
            Ok(_) => Ok(line.trim_end_matches('\n').to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn ask(&mut self, word: &str, paths: &[impl AsRef<str>]) -> Result<(), String> {
        let mut line = word.to_owned();
        for path in paths {
            line.push(' ');
            line.push_str(path.as_ref());
        }
        line.push('\n');
        let written = self.stdin.write_all(line.as_bytes());
        written.map_err(|error| error.to_string())
    }

    fn have(&mut self, path: &str) -> Result<(), String> {
        self.ask("have", &[path])?;
        if self.line()?.is_empty() {
            return Err(format!("{path} is not available"));
        }
        self.line().map(drop)
    }

    fn infos(&mut self, paths: &[impl AsRef<str>]) -> Result<Infos, String> {
        self.ask("info", paths)?;
        let mut infos = Infos::new();
        loop {
            let path = self.line()?;
            if path.is_empty() {
                return Ok(infos);
            }
            let _deriver = self.line()?;
            let count: usize = self.line()?.parse().map_err(|_| "no number".to_owned())?;
            let references: Result<Vec<String>, String> = (0..count).map(|_| self.line()).collect();
            let (_download_size, _nar_size) = (self.line()?, self.line()?);
            infos.insert(path, references?);
        }
    }

    /// The whole closure, level by level, as Nix asks for it.
    fn closure(&mut self, root: &str) -> Result<Infos, String> {
        self.have(root)?;
        let mut known = Infos::new();
        let mut wave = vec![root.to_owned()];
        while !wave.is_empty() {
            let infos = self.infos(&wave)?;
            if let Some(missing) = wave.iter().find(|path| !infos.contains_key(*path)) {
                return Err(format!("no info about {missing}"));
            }
            known.extend(infos.clone());
            let next: HashSet<String> = infos.into_values().flatten().collect();
            wave = next
                .into_iter()
                .filter(|path| !known.contains_key(path))
                .collect();
        }
        Ok(known)
    }

    fn end(self) -> Result<(), String> {
        drop(self.stdin);
        self.process.end()
    }
}

/// A program in this environment, through this link.
fn program(env: &NixEnv, link: &Link, program: impl AsRef<Path>) -> Command {
    let mut command = env.command(program);
    command.env("NIX_SSHOPTS", link.options());
    command
}

/// A closure from an empty cache, without an engine.
fn cold(host: &Host, line: Line, root: &str) -> Tried {
    let env = NixEnv::new();
    let _masters = env.masters();
    env.configure(&[host.trusted()], "");
    let link = Link::to(&host.sshd, line);
    fetch(&env, &link, root)
}

/// Does all that Nix 1.11 does for a closure, in this environment: in a process of its own, as each Nix command is one,
/// by whose number an engine knows who belongs together.
pub fn fetch(env: &NixEnv, link: &Link, root: &str) -> Tried {
    let bench = std::env::current_exe().map_err(|error| error.to_string())?;
    let dest = Scratch::new();
    let mut command = program(env, link, bench);
    command.args([NAME, root]).arg(dest.path());
    let before = link.trips();
    let run = timed(command, WHOLE, Watch::Nothing)?;
    Ok(Run {
        trips: link.trips() - before,
        ..run
    })
}

/// What [`fetch`] starts: all paths into this folder, in the environment of this process.
pub fn run(args: &[String]) -> Result<(), String> {
    let [root, dest] = args else {
        return Err("two arguments".to_owned());
    };
    let mut query = Query::start(Command::new(support::program()))?;
    let infos = query.closure(root)?;
    for path in infos.keys() {
        query.infos(&[path])?;
    }
    for path in references_first(&infos, root) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let mut command = Command::new(support::program());
        command.args(["--substitute", path]);
        command.arg(Path::new(dest).join(name));
        substitute(command).map_err(|why| format!("{path}: {why}"))?;
    }
    query.end()
}

/// Waits for the lines and the end of a process, as Nix does: looking now and then would take longer than some
/// processes.
fn substitute(mut command: Command) -> Result<(), String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut process = Deadline::start(command, LIMIT)?;
    let mut stdout = process.child.stdout.take().expect("stdout is piped");
    let mut text = String::new();
    let read = stdout.read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    process.end()?;
    match text.lines().nth(1) {
        Some(hash) if hash.starts_with("sha256:") => Ok(()),
        _ => Err(format!("no hash came: {text:?}")),
    }
}

/// All paths, those that a path refers to before it.
fn references_first<'a>(infos: &'a Infos, root: &'a str) -> Vec<&'a str> {
    fn visit<'a>(
        infos: &'a Infos,
        path: &'a str,
        seen: &mut HashSet<&'a str>,
        order: &mut Vec<&'a str>,
    ) {
        if seen.insert(path) {
            for reference in infos.get(path).into_iter().flatten() {
                visit(infos, reference, seen, order);
            }
            order.push(path);
        }
    }
    let (mut seen, mut order) = (HashSet::new(), Vec::new());
    visit(infos, root, &mut seen, &mut order);
    order
}

/// A closure through the text protocol; the goal, in seconds, comes from another machine.
pub fn front_end(lab: &Lab, table: &mut Table, small: bool, rtt: u64, goal: f64) {
    let count = if small { 20 } else { lab.dag_count() };
    let title = format!("text protocol, {count} paths, {rtt} ms");
    if !lab.wants(&title) {
        return;
    }
    let root = if small {
        lab.small_dag().last().expect("a path")
    } else {
        lab.dag()
    };
    let mut runs = Runs::default();
    for _ in 0..lab.options.runs {
        runs.push("ours", cold(lab.host(), Line::rtt(rtt), root));
        if runs.failed() {
            break;
        }
    }
    table.add(Row {
        name: format!("{title}: --query, then --substitute each"),
        unit: "s",
        ours: runs.seconds(),
        beside: "(absolute: 1/6 of Nix 1.11 elsewhere)",
        goal: Some(Goal::Most(goal)),
        trouble: runs.trouble(),
        ..Row::default()
    });
}

/// Infos from the disk cache, by a process that has no ssh to ask with, beside one login.
pub fn cached(lab: &Lab, table: &mut Table) {
    let title = format!("info for {} cached paths", lab.dag_count());
    if !lab.wants(&title) {
        return;
    }
    let (mut mine, mut other) = (Runs::default(), Runs::default());
    match Cached::new(lab.host(), lab.dag()) {
        Ok(cached) => {
            for _ in 0..lab.options.runs {
                mine.push("ours", cached.ask());
                if mine.failed() {
                    break;
                }
            }
        }
        Err(why) => mine.push("ours, filling the cache", Err(why)),
    }
    for _ in 0..lab.options.runs {
        let link = Link::to(&lab.host().sshd, Line::default());
        let mut command = Command::new(tool("ssh"));
        command.arg("-F").arg(link.config());
        command.args(["127.0.0.1", "true"]);
        other.push("ssh host true", timed(command, LIMIT, Watch::Nothing));
    }
    table.add(Row {
        name: format!("{title}: --query, no ssh started"),
        unit: "s",
        ours: mine.seconds(),
        other: other.seconds(),
        beside: "ssh host true, cold",
        goal: Some(Goal::Ratio(0.1)),
        peak: mine.peak(),
        trouble: [mine.trouble(), other.trouble()].concat(),
    });
}

/// An environment whose disk cache knows a closure, without any connection.
struct Cached<'a> {
    host: &'a Host,
    env: NixEnv,
    link: Link,
    paths: Vec<String>,
}

impl<'a> Cached<'a> {
    fn new(host: &'a Host, root: &str) -> Result<Self, String> {
        let env = NixEnv::new();
        let masters = env.masters();
        // With the default nobody is told that a host has a path before it was asked: that takes a connection.
        env.configure(&[host.trusted()], "narinfo-cache-positive-ttl = 86400\n");
        let link = Link::to(&host.sshd, Line::default());
        let mut query = Query::start(program(&env, &link, support::program()))?;
        let paths = query.closure(root)?.into_keys().collect();
        query.end()?;
        drop(masters);
        Ok(Self {
            host,
            env,
            link,
            paths,
        })
    }

    /// A whole process answers about all paths; whatever asks for ssh gets one that leaves a trace and fails.
    fn ask(&self) -> Tried {
        let fake = Scratch::new();
        let trace = fake.path().join("trace");
        let script = format!("#!/bin/sh\necho \"$@\" >>'{}'\nexit 1\n", trace.display());
        let ssh = fake.write("ssh", script);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(ssh, mode).map_err(|error| error.to_string())?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = program(&self.env, &self.link, support::program());
        command.env("PATH", format!("{}:{path}", fake.path().display()));

        let logins = self.host.sshd.logins();
        let start = Instant::now();
        let mut query = Query::start(command)?;
        let infos = query.infos(&self.paths)?;
        query.end()?;
        let seconds = start.elapsed().as_secs_f64();
        if trace.exists() {
            return Err(format!("it started ssh; {} infos came", infos.len()));
        }
        if self.host.sshd.logins() > logins {
            return Err("it logged in".to_owned());
        }
        if infos.len() < self.paths.len() {
            return Err(format!(
                "{} of {} infos came",
                infos.len(),
                self.paths.len()
            ));
        }
        Ok(Run {
            seconds,
            ..Run::default()
        })
    }
}
