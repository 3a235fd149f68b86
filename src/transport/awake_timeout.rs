//! A limit for how long another process of this machine may take to answer.

use std::future::Future;
use std::time::Duration;

use tokio::time::sleep;

/// Time counts in steps of this.
const STEP: Duration = Duration::from_millis(100);

/// Waits for `future` for at most `limit`, but counts only time in which this process could run: when the machine stood still
/// or had too much to do, the other process had no time to answer either. `None` when the limit was reached.
pub(super) async fn timeout_awake<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut left = limit;
    while !left.is_zero() {
        let step = STEP.min(left);
        tokio::select! {
            biased;
            output = &mut future => return Some(output),
            () = sleep(step) => left -= step,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn time_in_which_nothing_could_run_does_not_count() {
        let answer = async {
            tokio::task::yield_now().await;
            std::thread::sleep(2 * LIMIT);
            sleep(LIMIT / 4).await;
        };
        assert_eq!(timeout_awake(LIMIT, answer).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn all_other_time_does() {
        assert_eq!(timeout_awake(LIMIT, sleep(LIMIT - STEP)).await, Some(()));
        assert_eq!(timeout_awake(LIMIT, sleep(LIMIT + STEP)).await, None);
    }
}
