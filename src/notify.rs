//! systemd's notification protocol: one datagram to the socket it names, nothing otherwise.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

pub fn ready(status: &str) -> io::Result<()> {
    send(&format!("READY=1\nSTATUS={status}\n"))
}

pub fn stopping() -> io::Result<()> {
    send("STOPPING=1\n")
}

fn send(message: &str) -> io::Result<()> {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.send_to_addr(message.as_bytes(), &address(&socket)?)?;
    Ok(())
}

/// A leading `@` stands for the abstract namespace.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    }
}
