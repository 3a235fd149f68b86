//! `sh` over a made-up store: reads lines and prints what they print.

use super::host::Far;
use super::link::Gone;
use super::shell::{Shell, is_whole};

/// Runs until the other end ends; the exit status.
pub async fn run(far: &mut Far) -> Result<i32, Gone> {
    let host = far.host.clone();
    let mut shell = Shell::new(&host.store);
    let mut lines = Vec::new();
    loop {
        let Some(end) = far.buf.iter().position(|byte| *byte == b'\n') else {
            match far.read().await {
                true => continue,
                false => return Ok(shell.status().into()),
            }
        };
        lines.extend_from_slice(&far.buf.split_to(end + 1));
        if !is_whole(&lines) {
            continue;
        }
        if shell.run(&lines).is_none() {
            let lines = String::from_utf8_lossy(&lines);
            *host.misread.lock().expect("no test panics in there") = Some(lines.into_owned());
            return Ok(2);
        }
        lines.clear();
        let io = std::mem::take(&mut shell.io);
        if !io.err.is_empty() {
            far.complain(&io.err);
        }
        for (bytes, is_contents) in io.out.0 {
            far.print(bytes, is_contents).await?;
        }
        far.finish();
    }
}
