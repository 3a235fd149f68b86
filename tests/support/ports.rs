//! Ports at which nobody listens, and at which nobody else will.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};

/// A port of 127.0.0.1 that refuses connections until this program ends. It stays bound: else the next server that another
/// test starts may get it.
pub fn closed_port() -> u16 {
    let socket = bound(0).expect("bind a port");
    let address = getsockname(&socket).expect("the address of a socket");
    let address = SocketAddr::try_from(address).expect("an IP address");
    std::mem::forget(socket);
    address.port()
}

/// The same for a port whose server has been killed; fails while it still listens.
pub(super) fn keep_closed(port: u16) -> io::Result<()> {
    std::mem::forget(bound(port)?);
    Ok(())
}

/// A socket that is bound and does not listen.
fn bound(port: u16) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    // Connections of a server that was killed may linger.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    Ok(socket)
}
