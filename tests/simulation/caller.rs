//! Those who want paths: they ask and fetch as the front ends do.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ssh_substituter::model::StorePath;
use ssh_substituter::resolver::{Found, Resolver};
use ssh_substituter::transfer::progress::NoProgress;
use ssh_substituter::transfer::{
    Caller, FailedTransfer, FetchRequest, NarSink, Piece, TransferError, Transfers,
};
use ssh_substituter::wire::nar::Decoder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::nars::Item;
use super::plan;
use super::rules::Watch;
use super::trace::Trace;

/// What callers share.
pub struct Core {
    pub resolver: Arc<Resolver>,
    pub transfers: Transfers,
    pub items: Vec<Arc<Item>>,
    pub trace: Arc<Trace>,
    pub watch: Arc<Watch>,
}

/// What came of one fetch.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub path: usize,
    pub begun: Instant,
    pub ended: Instant,
    pub result: Result<(), Why>,
    /// Bytes that were passed on.
    pub passed: u64,
    /// Where they differ from the right ones.
    pub wrong_at: Option<u64>,
    /// Whether what was passed on makes a proper archive, with what completes it.
    pub is_proper: bool,
}

/// Why a path was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    NotFound,
    Failed(String),
    /// The caller went away.
    Vanished,
}

/// What a caller was told on all of its connections.
type Told = Arc<Mutex<BTreeMap<StorePath, Found>>>;

/// Fetches all that the plan says; what came of each.
pub async fn run(core: Arc<Core>, number: usize, plan: plan::Caller) -> Vec<Outcome> {
    sleep(plan.start).await;
    let caller = Arc::new(core.transfers.caller());
    let told = Told::default();
    if plan.asks_all_first {
        let all: Vec<usize> = plan.fetches.concat();
        ask(&core, &caller, &told, &all).await;
    }
    let mut connections = JoinSet::new();
    for fetches in plan.fetches.clone() {
        let connection = Connection {
            core: core.clone(),
            caller: caller.clone(),
            number,
            told: told.clone(),
            plan: plan.clone(),
            passed: 0,
        };
        connections.spawn(connection.run(fetches));
    }
    let mut outcomes = Vec::new();
    while let Some(more) = connections.join_next().await {
        outcomes.extend(more.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
    }
    outcomes
}

async fn ask(core: &Core, caller: &Caller, told: &Told, paths: &[usize]) {
    let paths: Vec<_> = paths
        .iter()
        .map(|at| core.items[*at].path.clone())
        .collect();
    for found in core.resolver.find(&paths).await {
        caller.expect(&found.info, &found.holders);
        let mut told = told.lock().expect("no test panics in there");
        told.insert(found.info.path.clone(), found);
    }
}

struct Connection {
    core: Arc<Core>,
    caller: Arc<Caller>,
    number: usize,
    told: Told,
    plan: plan::Caller,
    /// Bytes that it has taken.
    passed: u64,
}

impl Connection {
    async fn run(mut self, fetches: Vec<usize>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for (at, path) in fetches.into_iter().enumerate() {
            if let Some(question) = &self.plan.asks_for_closure
                && question.before == at
            {
                sleep(question.after).await;
                self.ask_for_closure(question.outputs).await;
            }
            let outcome = self.fetch(path).await;
            let has_vanished = outcome.result == Err(Why::Vanished);
            outcomes.push(outcome);
            if has_vanished {
                break;
            }
        }
        outcomes
    }

    async fn ask_for_closure(&self, outputs: bool) {
        let (core, number) = (&self.core, self.number);
        let all = self.plan.fetches.concat();
        let paths: Vec<_> = all.iter().map(|at| core.items[*at].path.clone()).collect();
        let closure = core.resolver.closure(&paths, outputs).await;
        let closure = closure.map(|paths| paths.len());
        let text = closure.map_err(|error| error.to_string());
        core.trace
            .note(format_args!("caller {number} closure: {text:?}"));
    }

    fn known(&self, path: &StorePath) -> Option<Found> {
        let told = self.told.lock().expect("no test panics in there");
        told.get(path).cloned()
    }

    async fn fetch(&mut self, place: usize) -> Outcome {
        let (core, number) = (self.core.clone(), self.number);
        let item = core.items[place].clone();
        let begun = Instant::now();
        if self.known(&item.path).is_none() {
            ask(&core, &self.caller, &self.told, &[place]).await;
        }
        let mut outcome = Outcome {
            path: place,
            begun,
            ended: begun,
            result: Err(Why::NotFound),
            passed: 0,
            wrong_at: None,
            is_proper: true,
        };
        let Some(found) = self.known(&item.path) else {
            core.trace.note(format_args!(
                "caller {number} {} not found",
                item.path.name()
            ));
            outcome.ended = Instant::now();
            return outcome;
        };
        core.resolver.download_begins();
        core.trace
            .note(format_args!("caller {number} fetches {}", item.path.name()));
        let mut sink = Sink {
            core: &core,
            item: &item,
            plan: &self.plan,
            before: self.passed,
            passed: 0,
            wrong_at: None,
            decoder: Decoder::new(u64::MAX),
            is_proper: true,
            has_vanished: false,
        };
        core.watch.begins(item.size());
        let wish = FetchRequest {
            info: &found.info,
            holders: &found.holders,
            caller: &self.caller,
            resume: None,
            progress: &NoProgress,
        };
        let result = core.transfers.fetch(wish, &mut sink).await;
        core.watch.ends(item.size());
        let text = result.as_ref().map_err(|failed| failed.error.to_string());
        core.trace.note(format_args!(
            "caller {number} {} after {} bytes: {text:?}",
            item.path.name(),
            sink.passed,
        ));
        outcome.result = match result {
            Ok(_) => Ok(()),
            Err(FailedTransfer {
                error: TransferError::Sink { .. },
                ..
            }) if sink.has_vanished => Err(Why::Vanished),
            Err(failed) => {
                core.resolver.forget(&item.path);
                let mut told = self.told.lock().expect("no test panics in there");
                told.remove(&item.path);
                sink.complete(&failed);
                Err(Why::Failed(failed.error.to_string()))
            }
        };
        outcome.ended = Instant::now();
        outcome.passed = sink.passed;
        outcome.wrong_at = sink.wrong_at;
        outcome.is_proper =
            sink.is_proper && (sink.decoder.is_complete() || outcome.result == Err(Why::Vanished));
        self.passed += sink.passed;
        outcome
    }
}

/// Takes a NAR, and looks whether it is the right one.
struct Sink<'a> {
    core: &'a Core,
    item: &'a Item,
    plan: &'a plan::Caller,
    /// What the connection had taken before.
    before: u64,
    passed: u64,
    wrong_at: Option<u64>,
    decoder: Decoder,
    is_proper: bool,
    has_vanished: bool,
}

impl Sink<'_> {
    fn decode(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.decoder.step(bytes) {
                Ok((read @ 1.., _)) => bytes = &bytes[read..],
                _ => {
                    self.is_proper = false;
                    return;
                }
            }
        }
    }

    fn complete(&mut self, failed: &FailedTransfer) {
        let rest = &failed.rest;
        self.decode(&rest.head);
        self.decode(&vec![0; rest.fill as usize]);
        self.decode(&rest.tail);
    }

    async fn wait(&self, len: u64) {
        if let Some(speed) = self.plan.speed {
            sleep(Duration::from_secs_f64(len as f64 / speed as f64)).await;
        }
        let so_far = self.before + self.passed;
        if let Some((at, pause)) = self.plan.pause
            && (so_far..so_far + len).contains(&at)
        {
            self.core.trace.note(format_args!("a caller pauses"));
            sleep(pause).await;
        }
    }
}

#[async_trait]
impl NarSink for Sink<'_> {
    async fn write(&mut self, piece: Piece) -> io::Result<()> {
        let len = piece.bytes.len() as u64;
        self.core.watch.look(&self.core.transfers);
        self.wait(len).await;
        let so_far = self.before + self.passed;
        if self.plan.vanishes_at.is_some_and(|at| so_far + len > at) {
            self.has_vanished = true;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let at = self.passed as usize;
        let right = self.item.nar.get(at..at + piece.bytes.len());
        if right != Some(&piece.bytes[..]) && self.wrong_at.is_none() {
            let same = |(one, other): (&u8, &u8)| one == other;
            let rest = self.item.nar.get(at..).unwrap_or_default();
            let first = rest
                .iter()
                .zip(&piece.bytes[..])
                .take_while(|pair| same(*pair))
                .count();
            self.wrong_at = Some(self.passed + first as u64);
        }
        self.passed += len;
        self.decode(&piece.bytes);
        Ok(())
    }
}

/// How long the callers of a plan take on their own account.
pub fn own_time(plan: &plan::Plan) -> Duration {
    let one = |caller: &plan::Caller| {
        let all = caller.fetches.concat();
        let bytes: u64 = all.iter().map(|at| plan.paths[*at].item.size()).sum();
        let taking = caller
            .speed
            .map_or(0.0, |speed| bytes as f64 / speed as f64);
        let pause = caller.pause.map_or(Duration::ZERO, |(_, pause)| pause);
        let connections = u32::try_from(caller.fetches.len()).expect("a few");
        let question = caller.asks_for_closure.as_ref();
        let question = question.map_or(Duration::ZERO, |question| question.after);
        caller.start + question + pause * connections + Duration::from_secs_f64(taking)
    };
    plan.callers.iter().map(one).max().unwrap_or_default()
}
