//! Callers that send what they like. Whatever it is, the program neither hangs nor falls out of step nor takes more memory
//! than a request may have.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::support::{NixEnv, kill_tree};

const MIB: u64 = 1 << 20;

/// Nobody answers for it: nothing that is sent here needs anybody.
fn env() -> NixEnv {
    let env = NixEnv::new();
    env.configure(&["nobody@127.0.0.1:1".to_owned()], "");
    env
}

struct Heard {
    stdout: Vec<u8>,
    stderr: String,
    code: Option<i32>,
    /// Most memory that it had, in bytes.
    peak: u64,
}

/// Writes pieces until all are gone or nobody reads any more, and hears what comes back.
fn tell(
    env: &NixEnv,
    args: &[&str],
    pieces: impl Iterator<Item = Vec<u8>> + Send + 'static,
) -> Heard {
    let mut command = env.program();
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("start the program");
    let mut stdin = child.stdin.take().expect("a pipe");
    let writer = thread::spawn(move || {
        for piece in pieces {
            if stdin.write_all(&piece).is_err() {
                return;
            }
        }
    });
    let mut pipes = (
        child.stdout.take().expect("a pipe"),
        child.stderr.take().expect("a pipe"),
    );
    let stdout = thread::spawn(move || {
        let mut all = Vec::new();
        pipes.0.read_to_end(&mut all).map(|_| all)
    });
    let stderr = thread::spawn(move || {
        let mut all = Vec::new();
        pipes.1.read_to_end(&mut all).map(|_| all)
    });
    let (code, peak) = watch(&mut child);
    writer.join().expect("a writer");
    let stderr = stderr.join().expect("a reader").expect("read stderr");
    Heard {
        stdout: stdout.join().expect("a reader").expect("read stdout"),
        stderr: String::from_utf8(stderr).expect("what is said is printable"),
        code,
        peak,
    }
}

fn watch(child: &mut Child) -> (Option<i32>, u64) {
    let (started, mut peak) = (Instant::now(), 0);
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes =
            kilobytes.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kilobytes.unwrap_or(0) * 1024);
        if let Some(status) = child.try_wait().expect("wait for a child") {
            return (status.code(), peak);
        }
        if started.elapsed() > Duration::from_secs(60) {
            kill_tree(child.id());
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn once(bytes: impl AsRef<[u8]>) -> impl Iterator<Item = Vec<u8>> + Send + 'static {
    std::iter::once(bytes.as_ref().to_vec())
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

const HELLO: [u64; 2] = [0x390c_9deb, 0x205];

#[test]
fn a_line_that_never_ends_is_given_up_and_takes_bounded_memory() {
    let heard = tell(&env(), &["--query"], std::iter::repeat(vec![b'x'; 1 << 16]));
    assert_eq!((heard.code, &heard.stdout[..]), (Some(1), &b"\n"[..]));
    assert!(
        heard
            .stderr
            .contains("request line: expected at most 16777216 bytes"),
        "{}",
        heard.stderr
    );
    assert!(heard.stderr.len() < 1000, "{}", heard.stderr);
    assert!(heard.peak < 100 * MIB, "{} bytes", heard.peak);
}

#[test]
fn a_line_full_of_nonsense_costs_a_few_words() {
    let words = "x ".repeat(4_000_000);
    let heard = tell(&env(), &["--query"], once(format!("have {words}\n")));
    assert_eq!((heard.code, &heard.stdout[..]), (Some(0), &b"\n\n"[..]));
    let rest = "3999992 more words are not store paths";
    assert!(heard.stderr.contains(rest), "{}", heard.stderr);
    assert!(heard.stderr.len() < 5000, "{}", heard.stderr);
    assert!(heard.peak < 100 * MIB, "{} bytes", heard.peak);
}

#[test]
fn lines_of_any_bytes_are_answered_in_step() {
    let all: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    let lines: Vec<Vec<u8>> = vec![
        Vec::new(),
        b" ".to_vec(),
        b"\0\0\0".to_vec(),
        all.clone(),
        [b"have ".to_vec(), all].concat(),
        b"have /nix/store/\0".to_vec(),
        b"have /nix/store/../../etc/passwd ".to_vec(),
        b"info \x1b]0;title\x07\x1b[2J".to_vec(),
        b"HAVE x".to_vec(),
        b"have\r".to_vec(),
        b"info \xff\xfe -rf --option".to_vec(),
        [b"have ".to_vec(), vec![b'/'; 1 << 20]].concat(),
    ];
    let input = lines.join(&b'\n');
    let heard = tell(&env(), &["--query"], once([input, b"\n".to_vec()].concat()));
    assert_eq!(heard.code, Some(0), "{}", heard.stderr);
    assert_eq!(heard.stdout, vec![b'\n'; 1 + lines.len()]);
    let printable = |c: char| !c.is_control() || c == '\n';
    assert!(heard.stderr.chars().all(printable), "{:?}", heard.stderr);
    // In the middle of a line it may end, too.
    let heard = tell(&env(), &["--query"], once("have /nix/store/"));
    assert_eq!((heard.code, &heard.stdout[..]), (Some(0), &b"\n"[..]));
}

#[test]
fn a_caller_may_send_byte_by_byte() {
    let lines = b"have x \ninfo y \n".map(|byte| vec![byte]).into_iter();
    let heard = tell(&env(), &["--query"], lines);
    assert_eq!((heard.code, &heard.stdout[..]), (Some(0), &b"\n\n\n"[..]));
    let request = [
        numbers(&HELLO),
        numbers(&[1, 0, 0, 1, 1]),
        b"x\0\0\0\0\0\0\0".to_vec(),
    ]
    .concat();
    let heard = tell(
        &env(),
        &["--serve"],
        request.into_iter().map(|byte| vec![byte]),
    );
    assert_eq!(heard.code, Some(0), "{}", heard.stderr);
    assert_eq!(heard.stdout[16..], 0_u64.to_le_bytes());
}

#[test]
fn what_no_serve_client_would_send_ends_at_once_in_bounded_memory() {
    let set = |rest: &[u64]| numbers(&[&HELLO[..], &[1, 0, 0], rest].concat());
    let (count, length) = (
        "expected at most 1000000, got",
        "expected at most 4096, got",
    );
    let cut_off = "the caller ended in the middle of a request";
    let requests: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a set without end", set(&[u64::MAX]), count),
        ("one more than a set may have", set(&[1_000_001]), count),
        ("a path without end", set(&[1, u64::MAX]), length),
        ("a path that is too long", set(&[1, 4097]), length),
        ("a length that overflows", set(&[1, u64::MAX - 6]), length),
        (
            "padding that is not zero",
            [set(&[1, 1]), b"x2345678".to_vec()].concat(),
            "expected zero padding",
        ),
        (
            "an unknown operation",
            numbers(&[HELLO[0], HELLO[1], 77]),
            "(operation 77) is refused",
        ),
        (
            "an import",
            numbers(&[HELLO[0], HELLO[1], 4]),
            "ImportPaths (operation 4) is refused",
        ),
        (
            "another magic",
            numbers(&[7, 7]),
            "expected the client's magic",
        ),
        (
            "an old version",
            numbers(&[HELLO[0], 0x101, 1]),
            "speaks version 1.1",
        ),
        ("half a hello", numbers(&HELLO)[..9].to_vec(), cut_off),
        ("half a request", numbers(&[HELLO[0], HELLO[1], 1]), cut_off),
        ("half a set", set(&[2, 1]), cut_off),
    ];
    for (what, request, why) in requests {
        // Whatever follows: it is not waited for.
        let more = std::iter::repeat_n(
            vec![0xff_u8; 1 << 16],
            if what.starts_with("half") { 0 } else { 2000 },
        );
        let heard = tell(&env(), &["--serve"], std::iter::once(request).chain(more));
        assert_eq!(heard.code, Some(1), "{what}: {}", heard.stderr);
        assert!(heard.stdout.len() <= 16, "{what}");
        assert!(heard.stderr.contains(why), "{what}: {}", heard.stderr);
        assert!(
            heard.stderr.starts_with("ssh-substituter: error: "),
            "{what}: {}",
            heard.stderr
        );
        assert!(
            heard.stderr.lines().count() == 1,
            "{what}: {}",
            heard.stderr
        );
        assert!(heard.peak < 100 * MIB, "{what}: {} bytes", heard.peak);
    }
}

#[test]
fn a_huge_set_of_nonsense_is_answered_without_being_kept() {
    let element = [numbers(&[4000]), vec![b'x'; 4000]].concat();
    let count = 15_000;
    let head = numbers(&[HELLO[0], HELLO[1], 1, 0, 0, count]);
    let elements = std::iter::repeat_n(element.clone(), count as usize);
    let heard = tell(&env(), &["--serve"], std::iter::once(head).chain(elements));
    assert_eq!(heard.code, Some(0), "{}", heard.stderr);
    assert_eq!(heard.stdout[16..], 0_u64.to_le_bytes());
    assert!(heard.peak < 100 * MIB, "{} bytes", heard.peak);
    // 64 MiB are the most.
    let head = numbers(&[HELLO[0], HELLO[1], 1, 0, 0, 20_000]);
    let heard = tell(
        &env(),
        &["--serve"],
        std::iter::once(head).chain(std::iter::repeat_n(element, 20_000)),
    );
    assert_eq!(heard.code, Some(1), "{}", heard.stderr);
    assert!(heard.peak < 100 * MIB, "{} bytes", heard.peak);
}

#[test]
fn arguments_of_any_bytes_are_refused_or_harmless() {
    let env = env();
    let dest = env.folder().join("dest");
    let dest = dest.to_str().expect("UTF-8");
    for path in [
        "-rf",
        "--",
        "a\nb",
        "",
        "/etc/passwd",
        "\u{1b}[31m",
        "/nix/store/../x",
        &"x".repeat(100_000),
    ] {
        let heard = tell(&env, &["--substitute", path, dest], std::iter::empty());
        assert_ne!(heard.code, Some(0), "{path:?}");
        assert!(heard.stdout.len() <= 1, "{path:?}");
        assert!(!heard.stderr.contains('\u{1b}'), "{:?}", heard.stderr);
        assert!(heard.stderr.len() < 2000, "{}", heard.stderr.len());
        assert!(!std::path::Path::new(dest).exists());
    }
}
