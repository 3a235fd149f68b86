//! A long way to a server: all that passes is late by the same time, as much as may pass at once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

/// How much is on its way at most, in pieces of 64 KiB.
const PIECES: usize = 256;

/// A port that leads to that one of this machine; what passes is late by `delay` on each way. It ends with the test program.
pub fn far_away(port: u16, delay: Duration) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a port");
    let own = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            // Who comes when the server has gone is hung up on.
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            for (from, to) in [(&near, &far), (&far, &near)] {
                let [from, to] = [from, to].map(|stream| stream.try_clone().expect("a stream"));
                thread::spawn(move || carry(from, to, delay));
            }
        }
    });
    own
}

fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let _ = to.set_nodelay(true);
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(PIECES);
    thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut piece = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut piece) {
        if sender
            .send((Instant::now() + delay, piece[..len].to_vec()))
            .is_err()
        {
            break;
        }
    }
}
