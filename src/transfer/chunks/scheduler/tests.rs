use tokio::time::advance;

use super::*;
use crate::pool::tests::silent_hosts;
use crate::transfer::hosts::HolderLookup;

struct NoHolders;

impl HolderLookup for NoHolders {
    fn holders(&self, _: &StorePath) -> Option<Arc<[HostId]>> {
        None
    }

    fn on_missing(&self, _: HostId, _: &StorePath) {}
}

fn scheduler() -> Scheduler {
    let pool = Arc::new(silent_hosts(&["slow", "fast"]));
    let bookkeeping = HostBookkeeping::new(pool, Box::new(NoHolders));
    Scheduler::new(Arc::new(bookkeeping))
}

/// Has a host send so many bytes a second, for two seconds.
async fn set_rate(scheduler: &Scheduler, host: HostId, bytes: u64) {
    let throughput = &scheduler.bookkeeping.throughput;
    let mut outstanding = throughput.request(host, 2 * bytes);
    for _ in 0..2 {
        advance(Duration::from_secs(1)).await;
        outstanding.on_received(bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_to_a_host_that_is_not_asked_any_more() {
    let (scheduler, [slow, fast]) = (scheduler(), [0, 1].map(HostId::at));
    set_rate(&scheduler, slow, 300_000).await;
    set_rate(&scheduler, fast, 20_000_000).await;
    let name = |letter: &str| format!("/nix/store/{}-path", letter.repeat(32));
    let [path, other] = ["a", "b"].map(|letter| StorePath::parse(&name(letter)).unwrap());
    let asks = |path| scheduler.is_worth_asking(slow, path, 2_000_000, &[fast]);
    assert!(!asks(&path));

    let fault = HostFault::Path {
        host: "fast".to_owned(),
        path: path.clone(),
        fault: PathFault::Disproved,
    };
    let bookkeeping = &scheduler.bookkeeping;
    bookkeeping.record_failure(fast, &path, &fault).await;
    assert!(asks(&path), "the other one has sent it wrongly");
    assert!(!asks(&other));
}
