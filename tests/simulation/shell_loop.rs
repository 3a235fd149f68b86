//! `sh` over a made-up store: reads lines and prints what they print.

use super::host::Far;
use super::link::Gone;
use super::shell::Shell;

/// Runs until the other end ends; the exit status.
pub async fn run(far: &mut Far) -> Result<i32, Gone> {
    let host = far.host.clone();
    let mut shell = Shell::new(&host.store);
    loop {
        let Some(end) = far.buf.iter().position(|byte| *byte == b'\n') else {
            match far.read().await {
                true => continue,
                false => return Ok(shell.status().into()),
            }
        };
        let line = far.buf.split_to(end + 1);
        if shell.run(&line[..end]).is_none() {
            let line = String::from_utf8_lossy(&line);
            host.note(format_args!("cannot read the line {line:?}"));
            far.complain(&format!("sh: cannot read {line:?}\n"));
            return Ok(2);
        }
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
