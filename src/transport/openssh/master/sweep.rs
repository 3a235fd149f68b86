//! Removes what masters leave in the runtime folder when they end: locks and logs, and the socket of one that was
//! killed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use crate::folder::lock::try_lock;
use crate::sys::{processes, sockets};
use crate::transport::openssh::calling_process::pid_of_name;
use crate::transport::openssh::login::LOGIN_FILE_SUFFIX;

/// Suffixes of a master's files. The lock comes last: the others are removed while it is held.
const MASTER_FILE_SUFFIXES: [&str; 4] = ["", ".new", ".log", ".lock"];

/// Suffix of the files with hosts' keys.
const KNOWN_HOSTS_SUFFIX: &str = ".known";

/// A younger file with a host's key is kept: a master that is being started may not have read it yet.
const KNOWN_HOSTS_MIN_AGE: Duration = Duration::from_secs(60 * 60);

/// Older records of logins no longer count (`login::record::MAX_BACKOFF_MS`).
const LOGIN_RECORD_MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// A socket that may be refused because many wait is looked at so many times more, with a pause before each.
const BACKLOG_LOOKS: usize = 3;
const BACKLOG_PAUSE: Duration = Duration::from_millis(50);

/// Removes the files of masters that have ended. What cannot be removed stays.
pub fn sweep(folder: &Path) {
    let names = names(folder);
    let masters: BTreeSet<_> = names.iter().filter_map(|name| master(name)).collect();
    let listening_sockets = listening_sockets();
    for master in masters {
        let socket = folder.join(master);
        if is_in_use(&socket, &listening_sockets) {
            continue;
        }
        let lock = folder.join(format!("{master}.lock"));
        // A process that starts a master holds the lock until there is a socket.
        let Ok(_lock) = try_lock(&lock) else {
            continue;
        };
        if !is_in_use(&socket, &self::listening_sockets()) {
            for end in MASTER_FILE_SUFFIXES {
                let _ = fs::remove_file(folder.join(format!("{master}{end}")));
            }
        }
    }
    sweep_keys(folder);
    sweep_logins(folder);
}

/// Removes records of logins that no longer count.
fn sweep_logins(folder: &Path) {
    for name in names(folder)
        .iter()
        .filter(|name| name.ends_with(LOGIN_FILE_SUFFIX))
    {
        let path = folder.join(name);
        if is_older(&path, LOGIN_RECORD_MAX_AGE)
            && let Ok(_lock) = try_lock(&path)
            && is_older(&path, LOGIN_RECORD_MAX_AGE)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a file was written longer ago than that.
fn is_older(path: &Path, age: Duration) -> bool {
    let written = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    let elapsed = written.ok().and_then(|written| written.elapsed().ok());
    elapsed.is_some_and(|elapsed| elapsed > age)
}

/// Removes the keys of hosts that there is no master for.
fn sweep_keys(folder: &Path) {
    let names = names(folder);
    let hosts: BTreeSet<_> = names
        .iter()
        .filter_map(|name| Some(master(name)?.split_once('-')?.0))
        .collect();
    for name in &names {
        let Some(host) = name.strip_suffix(KNOWN_HOSTS_SUFFIX) else {
            continue;
        };
        let path = folder.join(name);
        if !hosts.contains(host) && is_older(&path, KNOWN_HOSTS_MIN_AGE) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the files of clients that have ended. What cannot be removed stays.
pub(in crate::transport::openssh) fn sweep_clients(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let pid = name.to_str().and_then(pid_of_name);
        if pid.is_none_or(processes::exists) {
            continue;
        }
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        // A running ssh removes its socket itself, within half a minute.
        if !is_socket || is_abandoned_socket(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string());
    names.filter_map(Result::ok).collect()
}

/// The master that a file belongs to: `NAME-INDEX`, where NAME has 16 characters.
fn master(name: &str) -> Option<&str> {
    let (host, rest) = name.split_at_checked(16)?;
    let digits = rest.strip_prefix('-')?;
    let len = digits.bytes().take_while(u8::is_ascii_digit).count();
    let known = len > 0 && MASTER_FILE_SUFFIXES.contains(&&digits[len..]);
    let fine = host
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (known && fine).then_some(&name[..17 + len])
}

/// The paths that this machine's listening sockets were bound to (`/proc/net/unix`, proc(5)).
fn listening_sockets() -> Vec<String> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let path = |line: &str| line.split_ascii_whitespace().nth(7).map(str::to_owned);
    table.lines().filter_map(path).collect()
}

/// Whether a master listens there. Connecting to a master would restart its idle timeout, so `/proc` is asked first.
fn is_in_use(socket: &Path, listening_sockets: &[String]) -> bool {
    let uid = rustix::process::geteuid().as_raw();
    let is_ours = |meta: fs::Metadata| meta.file_type().is_socket() && meta.uid() == uid;
    if !fs::symlink_metadata(socket).is_ok_and(is_ours) {
        return false;
    }
    // ssh binds it under a longer name, and renames it.
    let path = socket.to_string_lossy();
    let bound = |bound: &String| {
        let rest = bound.strip_prefix(&*path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    listening_sockets.iter().any(bound) || !is_abandoned_socket(socket)
}

/// Whether no process listens on this socket. Does not wait, where a refusal is clear.
fn is_abandoned_socket(socket: &Path) -> bool {
    let connect = || {
        let fd = sockets::unix_stream()?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(socket)?)
    };
    let is_refused = || connect() == Err(Errno::CONNREFUSED);
    is_refused() && (sockets::REFUSED_MEANS_NOBODY || stays_so(is_refused))
}

/// Whether something holds for longer than a full backlog stays full.
fn stays_so(holds: impl Fn() -> bool) -> bool {
    (0..BACKLOG_LOOKS).all(|_| {
        thread::sleep(BACKLOG_PAUSE);
        holds()
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::net::UnixListener;
    use std::time::SystemTime;

    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    const NAME: &str = "abcdefghij234567";

    #[test]
    fn what_belongs_to_a_master_is_told_by_its_name() {
        let master_of =
            |end: &str| master(&format!("{NAME}{end}")).map(|name| name[16..].to_owned());
        for end in ["-0", "-0.lock", "-0.log", "-0.new"] {
            assert_eq!(master_of(end).as_deref(), Some("-0"), "{end}");
        }
        assert_eq!(master_of("-12.log").as_deref(), Some("-12"));
        for end in [".known", "-", "-x.log", "-0.sock", "0-0.log", "-0.AbCdEfGh"] {
            assert_eq!(master_of(end), None, "{end}");
        }
        assert_eq!(master("e-0123456789abcdef.lock"), None);
        assert_eq!(master("engine"), None);
    }

    #[test]
    fn only_what_belongs_to_masters_that_have_gone_goes() {
        let temp = tempfile::tempdir().unwrap();
        let at = |end: &str| temp.path().join(format!("{NAME}{end}"));
        let gone = ["-0.lock", "-0.log", "-1.log", "-1.new", "-2.lock"];
        let stays = ["-3.lock", "-3.log", "-4.lock", "-4.log", ".known"];
        for end in gone.iter().chain(&stays) {
            fs::write(at(end), "").unwrap();
        }
        fs::write(temp.path().join("e-0123456789abcdef.lock"), "").unwrap();
        drop(UnixListener::bind(at("-2")).unwrap());
        // As ssh does it.
        let _lives = UnixListener::bind(at("-3.AbCdEfGhIjKlMnOp")).unwrap();
        fs::rename(at("-3.AbCdEfGhIjKlMnOp"), at("-3")).unwrap();
        // Somebody starts one.
        let starting = try_lock(&at("-4.lock")).unwrap();
        sweep(temp.path());
        for end in gone.iter().chain(&["-2"]) {
            assert!(!at(end).exists(), "{end}");
        }
        for end in stays.iter().chain(&["-3"]) {
            assert!(at(end).exists(), "{end}");
        }
        assert!(temp.path().join("e-0123456789abcdef.lock").exists());

        // A key goes when it is old and nobody uses it.
        let old = SystemTime::now() - 2 * KNOWN_HOSTS_MIN_AGE;
        let make_old = || {
            fs::File::options()
                .write(true)
                .open(at(".known"))
                .unwrap()
                .set_modified(old)
                .unwrap()
        };
        make_old();
        sweep(temp.path());
        assert!(at(".known").exists());
        drop((starting, _lives));
        sweep(temp.path());
        let left: Vec<_> = names(temp.path());
        assert_eq!(left, ["e-0123456789abcdef.lock"]);
    }

    #[test]
    fn where_a_full_queue_refuses_it_must_do_so_for_long() {
        for (refusals, is_abandoned) in [(0, false), (1, false), (3, true)] {
            let asked = Cell::new(0);
            let is_refused = || asked.replace(asked.get() + 1) < refusals;
            assert_eq!(stays_so(is_refused), is_abandoned, "{refusals}");
        }
    }

    #[test]
    fn a_full_queue_is_no_sign_of_death() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        let fd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&fd, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        assert!(is_abandoned_socket(&path));
        rustix::net::listen(&fd, 0).unwrap();
        let _waits = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(!is_abandoned_socket(&path));
        assert!(!is_abandoned_socket(&path.with_extension("absent")));
    }

    #[test]
    fn what_is_left_of_those_that_have_gone_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let own = format!("0{:06x}abcdefghi-0.lock", std::process::id());
        // No process has this number: it is above the limit.
        let gone = ["0ffffffabcdefghi-0.log", "0ffffffabcdefghi.known"];
        let stays = [own.as_str(), "abcdefghijklmnop-0.lock", "0", "0zzzzzzabc"];
        for name in gone.iter().chain(&stays) {
            fs::write(at(name), "").unwrap();
        }
        let living = UnixListener::bind(at("0ffffffabcdefghi-1")).unwrap();
        drop(UnixListener::bind(at("0ffffffabcdefghi-2")).unwrap());
        sweep_clients(temp.path());
        for name in gone.iter().chain(&["0ffffffabcdefghi-2"]) {
            assert!(!at(name).exists(), "{name}");
        }
        for name in stays.iter().chain(&["0ffffffabcdefghi-1"]) {
            assert!(at(name).exists(), "{name}");
        }
        drop(living);
    }
}
