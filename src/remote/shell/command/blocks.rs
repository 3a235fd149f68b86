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
