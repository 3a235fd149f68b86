//! What is drawn: made-up transfers, shown by the real display on the real stderr of a process of its own, which the tests
//! start on a terminal or with a pipe.

use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use rustix::termios::{Winsize, tcsetwinsize};
use ssh_substituter::model::StorePath;
use ssh_substituter::progress::{Display, Mode, level};
use ssh_substituter::transfer::progress::{Outcome, Progress, TransferInfo, TransferProgress};

use crate::terminal::resized;

const MIB: u64 = 1 << 20;

fn start(display: &Display, name: &str, mib: u64, host: &str) -> Box<dyn TransferProgress> {
    let path = format!("/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-{name}");
    display.start(&TransferInfo {
        path: StorePath::parse(&path).unwrap(),
        host: host.to_owned(),
        total: mib * MIB,
    })
}

fn tick() {
    sleep(Duration::from_millis(160));
}

/// Twelve transfers, of which the first end soon, with a message now and then.
fn transfers(display: &Display, mut between: impl FnMut(u64)) {
    display.expected(14, 150 * MIB);
    let small = start(display, "small", 1, "build1");
    small.advance(MIB);
    small.finish(Outcome::Done);
    let mut running: Vec<_> = (0..12)
        .map(|number| {
            let host = format!("nix@build{}.example.org:2222", number % 3);
            start(display, &format!("package-{number}.0"), 12, &host)
        })
        .collect();
    for step in 0..16 {
        for transfer in &running {
            transfer.advance(MIB / 2);
        }
        if step % 3 == 0 {
            log::warn!("message {step} \x1b[31mof one line");
        }
        if step == 4 {
            log::info!(target: "ssh_substituter::made_up",
                "message {step} is {}",
                "so long that it needs several lines ".repeat(5).trim()
            );
        }
        if step > 6 {
            running.remove(0).finish(Outcome::Done);
        }
        between(step);
        tick();
    }
    drop(running);
    log::error!("message 99 of two lines\nthe second one");
}

fn show(mode: Mode) -> Display {
    let display = Display::new(mode);
    display.log_to_stderr(level(0, false));
    display
}

#[test]
#[ignore = "drawn by other tests"]
fn many() {
    transfers(&show(Mode::Auto), |_| {});
}

#[test]
#[ignore = "drawn by other tests"]
fn resizing() {
    transfers(&show(Mode::Auto), |step| {
        let (columns, rows) = match step {
            2 => (40, 24),
            4 => (20, 8),
            6 => (100, 5),
            8 => (80, 24),
            _ => return,
        };
        tick();
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(std::io::stderr(), size).expect("a terminal");
        let told = resized(columns, rows);
        std::io::stderr().write_all(told.as_bytes()).unwrap();
    });
}

#[test]
#[ignore = "drawn by other tests"]
fn json() {
    transfers(&show(Mode::Json), |_| {});
}
