//! One seed from its plan to its verdict, on one thread and in no real time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ssh_substituter::config;
use ssh_substituter::engine::ResolverLookup;
use ssh_substituter::hint::Hint;
use ssh_substituter::pool::{Limits, Pool};
use ssh_substituter::resolver::{Resolver, Trust};
use ssh_substituter::transfer::{BaseLookup, Transfers};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::bases::Bases;
use super::caller::{self, Core};
use super::disk::Disk;
use super::host::Host;
use super::plan::{self, Plan};
use super::rules::{Judge, SILENCE, Watch, time_limit};
use super::store::{Copy, Store};
use super::trace::Trace;
use super::transport::Hosts;

/// How long the last work that nobody waits for may take.
const AFTERMATH: Duration = Duration::from_secs(5);

/// What came of a run.
pub struct Report {
    pub seed: u64,
    /// The same whenever the same happened.
    pub hash: u64,
    pub offences: Vec<String>,
    pub text: Option<String>,
}

/// Runs a seed.
pub fn run(seed: u64, keeps_text: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let run = || runtime.block_on(simulate(Plan::new(seed), keeps_text));
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        Report {
            seed,
            hash: 0,
            offences: vec![format!("panicked: {}", text.unwrap_or_default())],
            text: None,
        }
    })
}

async fn simulate(plan: Plan, keeps_text: bool) -> Report {
    let start = Instant::now();
    let trace = Arc::new(Trace::new(start, keeps_text));
    if keeps_text {
        trace.note(format_args!("{plan:#?}"));
    }
    let hosts: Vec<_> = plan
        .hosts
        .iter()
        .enumerate()
        .map(|(number, host)| far(&plan, number, host, start, &trace))
        .collect();
    let mut background = JoinSet::new();
    for host in &hosts {
        background.spawn(host.clone().live());
    }
    let bases = plan.bases.as_ref();
    let bases = bases.map(|bases| Bases::new(bases, &plan.paths));
    if let Some(bases) = &bases {
        background.spawn(bases.clone().live(start));
    }
    let (core, pool) = core(&plan, &hosts, bases, &trace);
    let mut callers = JoinSet::new();
    for (number, caller) in plan.callers.iter().enumerate() {
        callers.spawn(caller::run(core.clone(), number, caller.clone()));
    }
    let mut outcomes = Vec::new();
    let all = async {
        while let Some(done) = callers.join_next().await {
            let panicked =
                |error: tokio::task::JoinError| std::panic::resume_unwind(error.into_panic());
            outcomes.extend(done.unwrap_or_else(panicked));
        }
    };
    let limit = time_limit(&plan);
    let is_in_time = timeout(limit, all).await.is_ok();
    trace.note(format_args!("all callers are done: {is_in_time}"));
    // A host that is back by then may be found to be.
    let failing = pool.hosts().filter(|host| !pool.is_healthy(*host));
    let failing = failing.map(|host| pool.host(host).name.clone()).collect();
    sleep(AFTERMATH).await;
    let cut_at = |host: &Arc<Host>| host.cut_at.lock().expect("no test panics in there").clone();
    let judge = Judge {
        cut_at: hosts.iter().map(cut_at).collect(),
        plan: &plan,
        watch: &core.watch,
        outcomes: &outcomes,
        lost: hosts
            .iter()
            .map(|host| host.lost.load(Ordering::Relaxed))
            .sum(),
        sent: hosts
            .iter()
            .map(|host| host.sent.load(Ordering::Relaxed))
            .sum(),
        failing,
        held: if is_in_time {
            core.transfers.memory().0 + core.transfers.on_disk().0
        } else {
            0
        },
    };
    let mut offences = judge.judge();
    for host in &hosts {
        let misread = host
            .misread
            .lock()
            .expect("no test panics in there")
            .clone();
        offences.extend(misread.map(|lines| format!("a shell cannot read {lines:?}")));
    }
    if !is_in_time {
        offences.push(format!("not done after {} s", limit.as_secs()));
    }
    Report {
        seed: plan.seed,
        hash: trace.hash(),
        offences,
        text: trace.text(),
    }
}

fn far(
    plan: &Plan,
    number: usize,
    host: &plan::Host,
    start: Instant,
    trace: &Arc<Trace>,
) -> Arc<Host> {
    let copies = host.copies.iter().map(|copy| {
        let path = &plan.paths[copy.path];
        let references = path
            .references
            .iter()
            .map(|at| plan.paths[*at].item.path.clone());
        Copy {
            info: path.item.info(references.collect()),
            item: path.item.clone(),
            from: copy.from.map(|at| start + at),
            until: copy.until.map(|at| start + at),
            again: copy.again.map(|at| start + at),
            wrong: copy.wrong,
        }
    });
    let bases = plan.bases.iter();
    let bases = bases.flat_map(|bases| bases.at_host(number, start));
    let mut store = Store::new("", copies.chain(bases));
    store.has_zstd = host.has_zstd;
    Host::new(host.clone(), store, start, trace.clone())
}

/// The core over these hosts, put together as an engine puts it together.
fn core(
    plan: &Plan,
    hosts: &[Arc<Host>],
    bases: Option<Arc<Bases>>,
    trace: &Arc<Trace>,
) -> (Arc<Core>, Arc<Pool>) {
    let parsed = plan.hosts.iter().enumerate().map(|(number, host)| {
        let is_always = plan
            .bases
            .as_ref()
            .is_some_and(|bases| bases.always[number]);
        let spec = format!(
            "ssh://{}?max-connections={}{}",
            host.name,
            host.max_connections,
            if is_always { "&delta=always" } else { "" }
        );
        config::host::Host::parse(&spec).expect("a host")
    });
    let watch = Arc::new(Watch::default());
    let (tell, note) = (watch.clone(), trace.clone());
    let notify = Arc::new(move |error: &(dyn Hint + 'static)| {
        note.note(format_args!("told: {error}"));
        tell.told(error);
    });
    let limits = Limits {
        connect: Duration::from_secs(10),
        silence: SILENCE,
        hedge: Duration::from_millis(150),
    };
    let transport = Arc::new(Hosts(hosts.to_vec()));
    let pool = Pool::new(parsed.collect(), transport, limits, notify, None).with_seed(plan.seed);
    let pool = Arc::new(pool);
    let trust = Trust {
        require_sigs: false,
        keys: Arc::default(),
    };
    let resolver = Arc::new(Resolver::new(pool.clone(), trust));
    let answers = Box::new(ResolverLookup(resolver.clone()));
    let disk = Arc::new(Disk::new(plan.disk.fault));
    let bases = bases.map(|bases| bases as Arc<dyn BaseLookup>);
    let transfers = Transfers::with_bases(pool.clone(), plan.memory, answers, bases);
    let transfers = transfers.with_disk(disk, plan.disk.bytes);
    let core = Core {
        transfers: match &plan.kept {
            Some(kept) => transfers.with_partials(Arc::new(kept.folder(&plan.paths))),
            None => transfers,
        },
        resolver,
        items: plan.paths.iter().map(|path| path.item.clone()).collect(),
        trace: trace.clone(),
        watch,
    };
    (Arc::new(core), pool)
}
