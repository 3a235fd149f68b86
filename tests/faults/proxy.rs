//! A TCP proxy before an sshd: cuts all connections after so many more bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// No cut is planned.
const NEVER: i64 = i64::MAX;

/// A planned cut comes after this time even if the bytes don't.
const AT_LAST: Duration = Duration::from_millis(250);

#[derive(Default)]
struct Connections {
    open: Mutex<Vec<TcpStream>>,
    left: AtomicI64,
    ended: AtomicBool,
}

impl Connections {
    fn cut(&self) {
        self.left.store(NEVER, Ordering::SeqCst);
        for stream in self.open.lock().expect("the connections").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

pub struct Proxy {
    port: u16,
    control: u16,
    connections: Arc<Connections>,
}

impl Proxy {
    pub fn new(upstream: u16) -> Self {
        let (listener, port) = listen();
        let (orders, control) = listen();
        let connections = Arc::new(Connections::default());
        connections.left.store(NEVER, Ordering::SeqCst);
        let shared = Arc::clone(&connections);
        thread::spawn(move || accept(&listener, upstream, &shared));
        let shared = Arc::clone(&connections);
        thread::spawn(move || obey(&orders, &shared));
        Self {
            port,
            control,
            connections,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where [`cut_after`] may be sent.
    pub fn control(&self) -> u16 {
        self.control
    }

    /// Cuts all connections now.
    pub fn cut(&self) {
        self.connections.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.connections.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Both wait in accept.
        for port in [self.port, self.control] {
            let _ = TcpStream::connect(("127.0.0.1", port));
        }
    }
}

/// From any process: have all connections cut after so many more bytes from the server.
pub fn cut_after(control: u16, bytes: u64) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", control)) else {
        return;
    };
    let _ = stream.write_all(&bytes.to_le_bytes());
    // The answer: it is armed.
    let _ = stream.read(&mut [0]);
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

fn accept(listener: &TcpListener, upstream: u16, connections: &Arc<Connections>) {
    while let Ok((client, _)) = listener.accept() {
        // With a dead server behind it the proxy goes too, so that connections are really refused.
        let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else {
            return;
        };
        if connections.ended.load(Ordering::SeqCst) {
            return;
        }
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
            let clone = stream.try_clone().expect("clone a stream");
            connections
                .open
                .lock()
                .expect("the connections")
                .push(clone);
        }
        let back = [&server, &client].map(|stream| stream.try_clone().expect("clone a stream"));
        thread::spawn(move || pump(client, server, None));
        let shared = Arc::clone(connections);
        let [server, client] = back;
        thread::spawn(move || pump(server, client, Some(&shared)));
    }
}

fn obey(orders: &TcpListener, connections: &Arc<Connections>) {
    while let Ok((mut stream, _)) = orders.accept() {
        if connections.ended.load(Ordering::SeqCst) {
            return;
        }
        let mut bytes = [0; 8];
        if stream.read_exact(&mut bytes).is_err() {
            continue;
        }
        let left = i64::from_le_bytes(bytes);
        connections.left.store(left, Ordering::SeqCst);
        let shared = Arc::clone(connections);
        thread::spawn(move || {
            thread::sleep(AT_LAST);
            if shared.left.load(Ordering::SeqCst) != NEVER {
                shared.cut();
            }
        });
        let _ = stream.write_all(b".");
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, counted: Option<&Connections>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if let Some(connections) = counted
            && connections.left.load(Ordering::SeqCst) != NEVER
        {
            let before = connections.left.fetch_sub(length as i64, Ordering::SeqCst);
            if before <= length as i64 {
                let pass = usize::try_from(before).unwrap_or_default();
                let _ = to.write_all(&buffer[..pass]);
                connections.cut();
                return;
            }
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
