//! Bars on terminals.

use crate::terminal::{Replay, Screen, on_terminal, scene};

/// How a row begins that a message has made.
const MESSAGE: &str = "ssh-substituter: ";

fn is_bar(row: &str) -> bool {
    let name = row.split(' ').next().unwrap_or_default();
    let whole =
        name.parse::<u32>().is_ok() && (row.contains(" of 14 pat") || row.contains(" of …"));
    let begins = |word: &str| name.starts_with(word) || name.starts_with("package…");
    whole || begins("package-") || row.starts_with("… and ")
}

/// What messages become in a terminal of this width.
fn messages(columns: usize) -> Vec<String> {
    let mut rows = Vec::new();
    for step in 0..16 {
        let mut message = Vec::new();
        if step % 3 == 0 {
            message.push(format!(
                "{MESSAGE}warning: message {step} \\u{{1b}}[31mof one line"
            ));
        }
        if step == 4 {
            let long = "so long that it needs several lines ".repeat(5);
            message.push(format!("{MESSAGE}message 4 is {}", long.trim()));
        }
        rows.extend(message);
    }
    rows.push(format!("{MESSAGE}error: message 99 of two lines"));
    rows.push(format!("{MESSAGE}error: the second one"));
    let broken = |row: &String| {
        let letters: Vec<char> = row.chars().collect();
        let rows = letters.chunks(columns).map(|row| row.iter().collect());
        rows.map(|row: String| row.trim_end().to_owned())
            .collect::<Vec<String>>()
    };
    rows.iter().flat_map(broken).collect()
}

/// Bars stand together, below all messages, and leave room; but for so many at most that were left behind above them.
fn assert_whole(screen: &Screen, left_behind: usize) {
    let Screen { rows, size } = screen;
    let shown = || format!("{size:?}\n{}", rows.join("\n"));
    let mut bars: Vec<usize> = (0..rows.len()).filter(|at| is_bar(&rows[*at])).collect();
    let gap = bars.windows(2).rposition(|pair| pair[0] + 1 < pair[1]);
    let apart = gap.map_or(0, |before| before + 1);
    assert!(apart <= left_behind, "torn: {}", shown());
    bars.drain(..apart);
    let most = usize::from(size.1).saturating_sub(2).max(1) + left_behind - apart;
    assert!(bars.len() <= most, "too many bars: {}", shown());
    if apart + bars.len() <= left_behind {
        // These may be all of those.
        return;
    }
    if let Some(last) = bars.last() {
        assert!(rows[last + 1..].iter().all(String::is_empty), "{}", shown());
    }
    for at in bars {
        let (row, width) = (&rows[at], usize::from(size.0));
        assert!(!row.contains("message"), "torn: {}", shown());
        assert!(row.chars().count() < width, "too wide: {}", shown());
    }
}

#[test]
fn bars_and_messages_share_a_terminal() {
    for size in [(100, 30), (80, 24), (40, 6), (20, 3)] {
        let printed = on_terminal(&scene("many"), size);
        let replay = Replay::of(&printed, size);
        let shown = replay.screens.iter().map(|screen| screen.rows.join("\n"));
        let shown = shown.collect::<Vec<_>>().join("\n---\n");
        replay
            .screens
            .iter()
            .for_each(|screen| assert_whole(screen, 0));
        let bars = replay.screens.iter().flat_map(|screen| &screen.rows);
        let bars: Vec<&String> = bars.filter(|row| is_bar(row)).collect();
        let any = |words: &[&str]| {
            bars.iter()
                .any(|bar| words.iter().all(|word| bar.contains(word)))
        };
        if size.0 >= 80 {
            assert!(
                any(&[
                    "package-11.0",
                    "/12.0 MiB",
                    "/s",
                    " s left",
                    "nix@build2",
                    "=>",
                    "["
                ]),
                "{shown}"
            );
            assert!(
                any(&[" of 14 paths", "/150.0 MiB", "/s", "left", "["]),
                "{shown}"
            );
        }
        assert!(any(&["of 14 pat"]), "{shown}");
        if size == (100, 30) {
            assert!(any(&["package-11.0"]) && !any(&["… and"]), "{shown}");
        }
        if size == (40, 6) {
            assert!(any(&["… and 10 more"]), "{shown}");
        }
        // In the end the messages alone are there, all of them, as if there had been no bars.
        let mut all = replay.all();
        all.truncate(all.iter().rposition(|row| !row.is_empty()).unwrap() + 1);
        assert_eq!(all, messages(size.0.into()), "{size:?}");
        // What comes from elsewhere has no colours of its own.
        assert!(!printed.contains("\x1b[31mof"));
    }
}

#[test]
fn another_size_tears_nothing() {
    let size = (100, 24);
    let replay = Replay::of(&on_terminal(&scene("resizing"), size), size);
    // This emulator cuts rows when it gets narrower, as xterm does. Of terminals that break them anew nothing is said here:
    // indicatif does not know that its bars have become more rows, and leaves some of them behind.
    let sizes: Vec<(u16, u16)> = replay.screens.iter().map(|screen| screen.size).collect();
    // The cursor stands in the last bar, so a terminal that gets lower moves the first ones out of
    // its screen, where nobody can clear them: 5 of 13, then 1 of 6.
    let lower = |from: u16, to: u16| {
        sizes
            .windows(2)
            .any(|pair| (pair[0].1, pair[1].1) == (from, to))
    };
    assert!(lower(24, 8) && lower(8, 5), "{sizes:?}");
    let mut last = size;
    let mut left_behind = 0;
    for (screen, size) in replay.screens.iter().zip(&sizes) {
        left_behind += match (last.1, size.1) {
            (24, 8) => 5,
            (8, 5) => 1,
            _ => 0,
        };
        // Until the next drawing nothing can be right.
        if *size == last {
            assert_whole(screen, left_behind);
        }
        last = *size;
    }
    assert!(
        sizes.contains(&(20, 8)) && sizes.contains(&(100, 5)),
        "{sizes:?}"
    );
    let all = replay.all();
    let bars = all.iter().filter(|row| is_bar(row)).count();
    assert!(bars <= left_behind, "{}", all.join("\n"));
    let warnings = all.iter().filter(|row| row.starts_with(MESSAGE));
    assert!(warnings.count() == 9, "{}", all.join("\n"));
}

#[test]
fn colours_are_modest_and_can_be_had_without() {
    let sgr = |command: &std::process::Command| {
        let printed = on_terminal(command, (100, 30));
        assert!(printed.contains("package-0.0"), "{printed:?}");
        let colour = printed.contains("\x1b[32m=") && printed.contains("\x1b[33mwarning: \x1b[m");
        let any = printed.split("\x1b[").skip(1).any(|after| {
            let end = after.find(|c: char| c.is_ascii_alphabetic());
            end.is_some_and(|end| after[end..].starts_with('m'))
        });
        (colour, any)
    };
    assert_eq!(sgr(&scene("many")), (true, true));
    assert_eq!(sgr(scene("many").env("NO_COLOR", "1")), (false, false));
    assert_eq!(sgr(scene("many").env("NO_COLOR", "")), (true, true));
}

#[test]
fn a_terminal_that_cannot_move_has_lines() {
    let printed = on_terminal(scene("many").env("TERM", "dumb"), (80, 24));
    assert!(!printed.contains('\x1b'), "{printed:?}");
    let rows: Vec<&str> = printed.lines().collect();
    assert!(
        rows.contains(&"ssh-substituter: error: the second one"),
        "{printed}"
    );
    // The whole is told about; its parts do not last long enough.
    assert!(
        rows.iter().any(|row| row.contains(" of 14 paths: ")),
        "{printed}"
    );
    assert!(!printed.contains("package-"), "{printed}");
}
