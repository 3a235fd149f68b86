//! One run of a real Nix while things go wrong, and what must be so afterwards.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::{Engine, Engines};
use crate::hosts::World;
use crate::plan::{Fault, Place};
use crate::plan_folder::{Event, now};
use crate::support::{HttpServer, Nix, Ran, Scratch, program, run_with_timeout};

/// No run may take longer, whatever goes wrong.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The same over HTTP: Nix asks up to five times for what breaks off, and each time all hosts are tried.
const HTTP_LIMIT: Duration = Duration::from_secs(150);

/// In seconds; short, but long enough for good hosts on a machine that has much to do: six were not.
const CONNECT_TIMEOUT: u32 = 15;
const STALL_TIMEOUT: u32 = 3;

/// What is planned for one run.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// What Nix shall realise.
    pub targets: Vec<String>,
    /// For each host.
    pub faults: Vec<Vec<Fault>>,
    /// No host can deliver this one.
    pub doomed: Option<String>,
    /// An ordinary binary cache stands behind.
    pub cache_behind: bool,
    /// What is between Nix's processes and the hosts.
    pub engine: Engine,
}

/// A fault that happened.
#[derive(Clone, Debug)]
pub struct Hit {
    pub fault: Fault,
    /// Until the next good reply came through from any host.
    pub delay: Duration,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    pub hits: Vec<Hit>,
    /// Everything arrived in this one run of Nix.
    pub complete: bool,
    /// Paths that failed, cleanly.
    pub failed_paths: usize,
    pub took: Duration,
    /// The engine was hit.
    pub engine_hit: bool,
}

/// Nix, with the program as its substituter.
pub struct Caller {
    /// Ends the engines before their folders go.
    engines: Option<Engines>,
    /// The same.
    server: Option<HttpServer>,
    pub nix: Nix,
    // Holds the sockets; must live as long as Nix does.
    runtime: Scratch,
    engine: Engine,
}

impl Caller {
    pub fn new(hosts: &str, behind: Option<&str>) -> Self {
        Self::with(hosts, behind, (Engine::Off, Path::new("/none")))
    }

    /// The same with an engine or a server over HTTP, which ends with the value. The server knows the names of what is in
    /// the store at `names`: the shells of these hosts do not find their stores.
    pub fn with(hosts: &str, behind: Option<&str>, (engine, names): (Engine, &Path)) -> Self {
        let runtime = Scratch::new();
        let folder = runtime.path().to_str().expect("UTF-8 path");
        let substituter = format!(
            "ssh://localhost?remote-program={}&trusted=true {}",
            program().display(),
            behind.unwrap_or_default()
        );
        let mut nix = Nix::new()
            .substituters(&substituter)
            .env("SSH_SUBSTITUTER_RUNTIME_DIR", folder)
            .limit(LIMIT);
        let mut settings = format!(
            "engine = {}\nssh-substituter-hosts = {hosts}\nconnect-timeout = {CONNECT_TIMEOUT}\n\
             stalled-download-timeout = {STALL_TIMEOUT}\n",
            engine.setting()
        );
        if engine == Engine::Http {
            settings += &format!("delta-base = {}\n", names.display());
        }
        let file = nix.store().env().conf_dir().join("ssh-substituter.conf");
        std::fs::write(file, settings).expect("write the settings");
        let has_engine = !matches!(engine, Engine::Off | Engine::Http);
        let engines = has_engine.then(|| Engines::of(&nix, runtime.path()));
        let server = (engine == Engine::Http).then(|| {
            let mut command = nix.store().env().program();
            command.env("SSH_SUBSTITUTER_RUNTIME_DIR", folder);
            command.args(["http", "--listen", "127.0.0.1:0"]);
            command.stdin(Stdio::null());
            HttpServer::start(command, runtime.path())
        });
        if let Some(server) = &server {
            let urls = format!("{} {}", server.trusted(), behind.unwrap_or_default());
            nix = nix.substituters(&urls).limit(HTTP_LIMIT);
        }
        Self {
            engines,
            server,
            nix,
            runtime,
            engine,
        }
    }

    /// How long one run may take, if not [`LIMIT`].
    pub fn limit(mut self, limit: Duration) -> Self {
        self.nix = self.nix.limit(limit);
        self
    }

    /// Bytes of NARs that have come in that way, where there is an engine.
    pub fn received(&self, way: &str) -> u64 {
        let engines = self.engines.as_ref();
        engines.map_or(0, |engines| engines.received(way))
    }

    /// `SSH_SUBSTITUTER_RUNTIME_DIR`.
    pub fn runtime(&self) -> &Path {
        self.runtime.path()
    }

    /// Realises as many of the paths as can be had.
    pub fn realise(&self, paths: &[String]) -> Ran {
        let mut command = self.nix.command("nix-store");
        command.args(["--realise", "--keep-going"]).args(paths);
        self.nix.run(command)
    }

    /// The same, while happens to the engine what is planned. Whether it did.
    fn realise_in_trouble(&mut self, paths: &[String]) -> (Ran, bool) {
        let Some(mut engines) = self.engines.take() else {
            return (self.realise(paths), false);
        };
        let is_over = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            let trouble = scope.spawn(|| engines.trouble(self.engine, &is_over));
            let end = SetOnDrop(&is_over);
            let ran = self.realise(paths);
            drop(end);
            (ran, trouble.join().expect("trouble with an engine"))
        });
        self.engines = Some(engines);
        result
    }

    /// Whether all of these paths are there, with the right bytes and these registered hashes.
    pub fn has(&self, paths: &[String], hashes: &[String]) -> Result<(), String> {
        let store = self.nix.store();
        let mut command = store.command("nix-store");
        command.arg("--verify-path").args(paths);
        let output = run_with_timeout(command, LIMIT);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let mut command = store.command("nix-store");
        command.args(["--query", "--hash"]).args(paths);
        let output = run_with_timeout(command, LIMIT);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.lines().eq(hashes.iter()) {
            return Ok(());
        }
        Err(format!("registered hashes: {text}"))
    }
}

/// Sets its flag when it goes, also where a panic takes it: the thread that waits for the flag would hang the whole suite.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs Nix as planned, checks, and repairs the hosts.
pub fn go(world: &mut World, plan: &RunPlan) -> Result<Outcome, String> {
    world.revive_the_dead();
    for (host, faults) in world.hosts.iter().zip(&plan.faults) {
        host.arm(faults);
    }
    let cache = plan.cache_behind.then(|| world.binary_cache());
    let mut caller = Caller::with(
        &world.urls(),
        cache.as_deref(),
        (plan.engine, world.names()),
    );
    let started = Instant::now();
    let (ran, engine_hit) = caller.realise_in_trouble(&plan.targets);
    let took = started.elapsed();
    // What one that was frozen asks for afterwards would set off faults in the next run.
    caller.engines = None;
    let events: Vec<Vec<Event>> = world
        .hosts
        .iter()
        .map(|host| host.plan_folder().events())
        .collect();
    let hits = hits(&events);
    for (host, events) in events.iter().enumerate() {
        let fired: Vec<Fault> = events.iter().filter_map(fired).collect();
        world.repair(host, &fired);
    }
    let mut outcome = Outcome {
        complete: ran.success(),
        hits,
        failed_paths: 0,
        took,
        engine_hit,
    };
    check(world, plan, &caller, &ran, &mut outcome).map_err(|what| {
        format!(
            "{what}\nfired: {:#?}\nstderr of Nix:\n{}\nof the server:\n{}",
            outcome.hits,
            ran.stderr(),
            caller
                .server
                .as_ref()
                .map(HttpServer::log)
                .unwrap_or_default()
        )
    })?;
    for host in &world.hosts {
        host.hang_up();
    }
    Ok(outcome)
}

fn check(
    world: &World,
    plan: &RunPlan,
    caller: &Caller,
    ran: &Ran,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let (all, hashes) = expected(world, plan);
    if ran.success() {
        // Of a reply that broke off behind its contents only closing tokens are missing, and a NAR that is completed in
        // step with its grammar is then the right one.
        let almost = |hit: &Hit| hit.fault.place == Place::Last;
        if plan.doomed.is_some() && !plan.cache_behind && !outcome.hits.iter().any(almost) {
            return Err("Nix succeeded with what no host can deliver".to_owned());
        }
        outcome.failed_paths = usize::from(plan.doomed.is_some());
        return caller.has(&all, &hashes);
    }
    if plan.cache_behind {
        return Err("Nix failed, with a good binary cache behind".to_owned());
    }
    // What may be missing: the doomed path, and large paths whose wrong bytes had been passed on.
    let spoilt = outcome.hits.iter().any(|hit| hit.fault.spoils());
    let may_fail = |path: &String| {
        plan.doomed.as_ref() == Some(path) || spoilt && world.closure.large.contains(path)
    };
    let (missing, there): (Vec<usize>, Vec<usize>) =
        (0..all.len()).partition(|index| !caller.nix.store().is_valid(&all[*index]));
    if missing.is_empty() {
        return Err("Nix failed, and nothing is missing".to_owned());
    }
    for index in &missing {
        let path = &all[*index];
        if !may_fail(path) {
            return Err(format!("{path} is missing"));
        }
        if !ran.stderr().contains(path) {
            return Err(format!("{path} is missing and not named"));
        }
    }
    let pick =
        |list: &[String]| -> Vec<String> { there.iter().map(|i| list[*i].clone()).collect() };
    caller.has(&pick(&all), &pick(&hashes))?;
    outcome.failed_paths = missing.len();
    // Nothing is left behind that keeps a second try from working.
    let engine = match plan.engine {
        Engine::Off | Engine::Http => plan.engine,
        _ => Engine::Well,
    };
    let again = Caller::with(&world.urls(), None, (engine, world.names()));
    let second = again.realise(&plan.targets);
    if !second.success() {
        return Err(format!("the second try failed too:\n{}", second.stderr()));
    }
    again.has(&all, &hashes)
}

/// All that Nix shall have, with hashes.
fn expected(world: &World, plan: &RunPlan) -> (Vec<String>, Vec<String>) {
    let root = world.closure.dag.last().expect("a root");
    let wanted = |path: &String| {
        plan.targets.contains(path)
            || plan.targets.contains(root) && world.closure.dag.contains(path)
    };
    let all = world.closure.all().into_iter().zip(world.hashes.clone());
    all.filter(|(path, _)| wanted(path)).unzip()
}

fn fired(event: &Event) -> Option<Fault> {
    match event {
        Event::Fired { fault, .. } => Some(fault.clone()),
        Event::Done { .. } => None,
    }
}

/// What happened, and how long nothing came after it.
fn hits(events: &[Vec<Event>]) -> Vec<Hit> {
    let end = now();
    let dones: Vec<u128> = events
        .iter()
        .flatten()
        .filter_map(|event| match event {
            Event::Done { at } => Some(*at),
            Event::Fired { .. } => None,
        })
        .collect();
    let hit = |event: &Event| match event {
        Event::Fired { at, fault } => {
            let next = dones.iter().filter(|done| *done >= at).min();
            let delay = next.unwrap_or(&end).saturating_sub(*at);
            Some(Hit {
                fault: fault.clone(),
                delay: Duration::from_millis(u64::try_from(delay).unwrap_or(u64::MAX)),
            })
        }
        Event::Done { .. } => None,
    };
    events.iter().flatten().filter_map(hit).collect()
}
