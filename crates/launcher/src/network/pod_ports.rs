//! The way into the guest by its Pod's address: what connects to a listed port there is connected to the guest's.
//!
//! Only TCP, and only ports that the manifest lists: whoever is not told which of 65,535 are wanted would have to listen on
//! all of them, for each machine.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::stack::MOST_CONNECTIONS;
use super::{Door, PIECE_BYTES, Ports, Protocol};

/// Ports that are listened on for one machine; a range may have more.
const MOST_PORTS: usize = 128;

/// Connections at a time, of all ports: what the guest may have, less a half that nobody on the host can take from
/// port-forward. More of them wait.
const MOST_HERE: usize = MOST_CONNECTIONS / 2;

/// Connections that the kernel keeps for a port until they are taken.
const BACKLOG: u32 = 64;

/// How long nobody is accepted after one could not be: file descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Ports that are named in a warning; of more of them their number is told.
const MOST_NAMED: usize = 8;

/// Ports of the Pod's address, listened on.
#[derive(Debug, Default)]
pub struct PodPorts(Vec<(u16, TcpListener)>);

impl PodPorts {
    /// Listens at the Pod's address on the TCP ports that are listed, but for the one of `control`, which is the launcher's
    /// own there; and says which cannot be had.
    ///
    /// Call it with the right to ports below 1024 (`CAP_NET_BIND_SERVICE`) where there is one.
    pub fn listen(control: SocketAddr, ports: &Ports) -> (Self, Option<String>) {
        let (mut open, mut closed) = (Vec::new(), Vec::new());
        for port in ports.listed(Protocol::Tcp) {
            let listener = match port {
                _ if open.len() == MOST_PORTS => Err(format!("only {MOST_PORTS} are opened")),
                port if port == control.port() => Err("it is the launcher's own".to_owned()),
                port => listen((control.ip(), port).into()).map_err(|error| error.to_string()),
            };
            match listener {
                Ok(listener) => open.push((port, listener)),
                Err(why) => closed.push((port, why)),
            }
        }
        (Self(open), warning(control.ip(), &closed))
    }

    /// Connects who comes to the guest behind `door`, in tasks that end with it.
    pub fn serve(self, door: &Door) {
        let places = Arc::new(Semaphore::new(MOST_HERE));
        for (port, listener) in self.0 {
            tokio::spawn(accept(port, listener, door.clone(), Arc::clone(&places)));
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A machine that comes back finds connections of the one before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Which ports are closed, why, and the way to them.
fn warning(address: IpAddr, closed: &[(u16, String)]) -> Option<String> {
    if closed.is_empty() {
        return None;
    }
    let mut text = format!("of the interface's `ports` some are not open at the Pod's address {address}:");
    for (port, why) in closed.iter().take(MOST_NAMED) {
        // A text takes all that is written to it.
        let _ = write!(text, " {port} ({why}),");
    }
    match closed.len().saturating_sub(MOST_NAMED) {
        0 => drop(text.pop()),
        more => text.push_str(&format!(" and {more} more")),
    }
    text.push_str("; port-forward reaches them");
    Some(text)
}

async fn accept(port: u16, listener: TcpListener, door: Door, places: Arc<Semaphore>) {
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = door.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, _)) => {
                let door = door.clone();
                tokio::spawn(async move {
                    relay(client, port, &door).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, port, "a connection to a port of the guest cannot be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn relay(mut client: TcpStream, port: u16, door: &Door) {
    // Small pieces come as they were sent; without it they only come later.
    let _ = client.set_nodelay(true);
    let carried = match door.connect(port).await {
        Ok(mut guest) => {
            let carried = copy_bidirectional_with_sizes(&mut client, &mut guest, PIECE_BYTES, PIECE_BYTES);
            carried.await.map(drop).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = carried {
        tracing::debug!(error, port, "a connection to a port of the guest ends");
        // What the client has is not all there was, and it must not take it for that; when this fails it is gone.
        let _ = client.set_zero_linger();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use super::*;

    /// Among the addresses of the host's loopback one that no other test has.
    const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 89, 7, 1));

    fn ports(ranges: &[(Protocol, u16, u16)]) -> Ports {
        Ports(ranges.iter().map(|(protocol, first, last)| (*protocol, *first..=*last)).collect())
    }

    #[tokio::test]
    async fn listed_ports_are_open_and_what_cannot_be_had_is_told() {
        let taken = TcpListener::bind((POD, 0)).await.unwrap().local_addr().unwrap().port();
        let holder = TcpListener::bind((POD, taken)).await.unwrap();
        let free = TcpListener::bind((POD, 0)).await.unwrap().local_addr().unwrap().port();
        let control = SocketAddr::from((POD, 1));
        let tcp = |port| (Protocol::Tcp, port, port);
        let listed = ports(&[tcp(1), tcp(taken), tcp(free), tcp(free), (Protocol::Udp, 53, 53)]);
        let (open, warning) = PodPorts::listen(control, &listed);
        assert_eq!(open.0.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [free]);
        assert_eq!(open.0[0].1.local_addr().unwrap(), SocketAddr::from((POD, free)));
        let mut closed = [(1, "it is the launcher's own"), (taken, "Address already in use (os error 98)")];
        closed.sort_unstable();
        let [(first, first_why), (second, second_why)] = closed;
        let expected = format!(
            "of the interface's `ports` some are not open at the Pod's address 127.89.7.1: {first} ({first_why}), \
             {second} ({second_why}); port-forward reaches them"
        );
        assert_eq!(warning, Some(expected));
        drop(holder);
    }

    #[tokio::test]
    async fn without_a_list_nothing_is_open_and_a_long_one_is_cut() {
        let control = SocketAddr::from((POD, 1));
        let (open, warning) = PodPorts::listen(control, &Ports::default());
        assert!(open.0.is_empty() && warning.is_none());
        let (open, warning) = PodPorts::listen(control, &ports(&[(Protocol::Tcp, 20_000, u16::MAX)]));
        assert_eq!(open.0.len(), MOST_PORTS);
        let warning = warning.unwrap();
        assert!(warning.contains(" (only 128 are opened),") && warning.len() < 600, "{warning}");
        let closed = 65_535 - 20_000 + 1 - MOST_PORTS;
        assert!(warning.ends_with(&format!(", and {} more; port-forward reaches them", closed - MOST_NAMED)));
    }
}
