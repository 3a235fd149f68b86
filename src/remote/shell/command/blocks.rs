//! The command by which a shell becomes a serve program that is given blocks: see [`crate::remote::blocks`].

use super::{put_trailer, put_word};

/// The first descriptor of a pipe: below are those that every program has, and 9 is used in between.
pub(in crate::remote::shell) const FIRST_PIPE: usize = 3;

/// Prints the process id of the shell and the trailer, with status 0 if all that is needed is there. Then has the serve
/// program of these words read blocks: from the shell's own stdin, or in turn from so many pipes, once a line has come on
/// stdin.
///
/// One command, so that it has been read when it is run: what comes on stdin next is not for the shell.
pub(in crate::remote::shell) fn take_blocks(words: &[&str], pipes: usize, number: u32) -> Vec<u8> {
    let fds: Vec<String> = match pipes {
        0 => vec!["0".to_owned()],
        _ => (FIRST_PIPE..FIRST_PIPE + pipes)
            .map(|fd| fd.to_string())
            .collect(),
    };
    let mut out = b"{ ".to_vec();
    // Some `head` read more of a pipe than they pass on.
    let probe = "[ \"$(printf 123456|{ head -c 3 >/dev/null;cat;})\" = 456 ]";
    if pipes == 0 {
        out.extend_from_slice(format!("{probe};e=$?;").as_bytes());
    } else {
        // The names are gone before anybody hears of the pipes. Open for reading and writing, they wait for nobody.
        let names: String = fds.iter().map(|fd| format!(" \"$d/{fd}\"")).collect();
        let open: String = fds.iter().map(|fd| format!(" {fd}<>\"$d/{fd}\"")).collect();
        let line = format!(
            "trap 'exit 1' 1 2 13 15;trap '[ -z \"$d\" ]||rm -rf \"$d\"' 0;d=;\
             {probe}&&[ -e /proc/$$/fd/0 ]&&d=$(umask 077;mktemp -d)&&mkfifo{names}&&exec{open};e=$?;\
             [ -z \"$d\" ]||rm -rf \"$d\";trap - 0 1 2 13 15;"
        );
        out.extend_from_slice(line.as_bytes());
    }
    out.extend_from_slice(b"printf %s $$;");
    put_trailer(&mut out, number, "$((e!=0))", "");
    out.extend_from_slice(b";[ $e = 0 ]||exit 1;");
    if pipes > 0 {
        // From here on a pipe ends when the channel does that writes to it.
        out.extend_from_slice(b"read -r g||exit 1;");
        for fd in &fds {
            let line = format!("exec 9</proc/$$/fd/{fd} {fd}<&- {fd}<&9 9<&-;");
            out.extend_from_slice(line.as_bytes());
        }
    }
    let fds = fds.join(" ");
    let take = format!(
        "while :;do for k in {fds};do read -r z b <&$k||exit;\
         case $z in z)head -c \"$b\" <&$k|zstd -dcq;;*)head -c \"$b\" <&$k;;esac||exit;\
         done;done 2>/dev/null|{{ "
    );
    out.extend_from_slice(take.as_bytes());
    for word in words {
        put_word(&mut out, word.as_bytes());
        out.push(b' ');
    }
    // Otherwise the shell would keep stdout open until the next block comes.
    out.extend_from_slice(b";kill $$;};exit;}\n");
    out
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Child, ChildStdin, Command, Stdio};

    use super::*;
    use crate::remote::shell::command::{NONCE, trailer};

    /// A shell that runs these lines.
    fn shell(program: &str, lines: &[u8]) -> (Child, ChildStdin) {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(lines).unwrap();
        (child, stdin)
    }

    /// What it prints up to that text.
    fn read_to(child: &mut Child, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let mut byte = [0];
            child
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut byte)
                .unwrap();
            text.push(byte[0]);
        }
        text.truncate(text.len() - end.len());
        String::from_utf8(text).unwrap()
    }

    fn rest(child: &mut Child) -> Vec<u8> {
        let mut rest = Vec::new();
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_to_end(&mut rest).unwrap();
        child.wait().unwrap();
        rest
    }

    fn block(kind: char, bytes: &[u8]) -> Vec<u8> {
        [format!("{kind} {}\n", bytes.len()).as_bytes(), bytes].concat()
    }

    const SHELLS: [&str; 2] = ["sh", "bash"];

    /// A shell with pipes, or without, that has said that it is ready, and its process id.
    fn ready(program: &str, words: &[&str], pipes: usize) -> (Child, ChildStdin, String) {
        let nonce = "a".repeat(NONCE);
        let mut lines = format!("n={nonce}\n").into_bytes();
        lines.extend(take_blocks(words, pipes, 7));
        let (mut child, stdin) = shell(program, &lines);
        let pid = read_to(&mut child, &trailer(&nonce, 7, 0));
        assert_eq!(pid, child.id().to_string());
        (child, stdin, pid)
    }

    #[test]
    fn blocks_come_out_as_what_they_hold() {
        let long = vec![b'l'; 300_000];
        let frame = crate::remote::inflater::frame(&long);
        for program in SHELLS {
            let (mut child, mut stdin, _) = ready(program, &["cat"], 0);
            for block in [block('r', b"one "), block('z', &frame), block('r', b" \n")] {
                stdin.write_all(&block).unwrap();
            }
            drop(stdin);
            assert!(rest(&mut child) == [b"one ", &long[..], b" \n"].concat());
        }
    }

    #[test]
    fn pipes_are_read_in_turn_and_end_with_the_last_who_writes() {
        for program in SHELLS {
            let (mut child, mut stdin, pid) = ready(program, &["cat"], 2);
            let writers = (0..2).map(|pipe| {
                let line = format!("exec cat >/proc/{pid}/fd/{}\n", FIRST_PIPE + pipe);
                let (mut writer, stdin) = shell("sh", format!("echo go;{line}").as_bytes());
                read_to(&mut writer, "go\n");
                (writer, stdin)
            });
            let mut writers: Vec<_> = writers.collect();
            // Only once both have opened it: `cat` runs then.
            for (writer, _) in &writers {
                let name = format!("/proc/{}/comm", writer.id());
                while std::fs::read_to_string(&name).unwrap() != "cat\n" {
                    std::thread::yield_now();
                }
            }
            stdin.write_all(b"\n").unwrap();
            for (number, word) in ["a", "b", "c", "d"].iter().enumerate() {
                let (_, pipe) = &mut writers[number % 2];
                pipe.write_all(&block('r', word.as_bytes())).unwrap();
            }
            for (mut writer, pipe) in writers {
                drop(pipe);
                writer.wait().unwrap();
            }
            assert_eq!(rest(&mut child), b"abcd");
            drop(stdin);
        }
    }

    #[test]
    fn a_program_that_ends_ends_all_of_it_at_once() {
        for program in SHELLS {
            let (mut child, stdin, _) = ready(program, &["head", "-c", "3"], 0);
            let mut input = stdin;
            input.write_all(&block('r', b"12345")).unwrap();
            // Nothing more comes, and the input stays open.
            assert_eq!(rest(&mut child), b"123");
            drop(input);
        }
    }

    #[test]
    fn a_channel_that_is_closed_before_its_pipes_are_used_ends_it() {
        for program in SHELLS {
            let (mut child, stdin, _) = ready(program, &["cat"], 2);
            drop(stdin);
            assert_eq!(rest(&mut child), b"");
        }
    }

    #[test]
    fn a_head_that_takes_more_than_it_passes_on_is_found() {
        let nonce = "a".repeat(NONCE);
        for (tool, pipes) in [
            ("head(){ cat;}", 0),
            ("head(){ cat;}", 2),
            ("mkfifo(){ false;}", 2),
            ("mktemp(){ false;}", 2),
        ] {
            let mut lines = format!("n={nonce}\n{tool}\n").into_bytes();
            lines.extend(take_blocks(&["cat"], pipes, 7));
            let (mut child, stdin) = shell("sh", &lines);
            read_to(&mut child, &trailer(&nonce, 7, 1));
            drop(stdin);
            assert_eq!(rest(&mut child), b"", "{tool}");
        }
    }
}
