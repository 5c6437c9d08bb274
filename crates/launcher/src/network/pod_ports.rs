//! The way into the guest by its Pod's address: what connects to a port there is connected to the guest's, and datagrams
//! are sent on ([`pod_datagrams`]).
//!
//! No launcher can listen on all 65,535 ports. Where the host redirects what comes to the address to one of them,
//! [`REDIRECT_PORT`], the kernel tells which was wanted, and all are open that the manifest allows. The ports that it lists
//! are listened on as well: nothing is redirected where the node may not, or has not got what it takes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::stack::MOST_CONNECTIONS;
use super::{Door, PIECE_BYTES, Ports, Protocol, pod_datagrams};
use crate::pod_dir::{CONTROL_PORT, REDIRECT_PORT};

/// Ports of each protocol that are listened on for one machine; a range may have more.
const MOST_PORTS: usize = 128;

/// Connections at a time, of all ports: half of what the guest may have. More of them wait. With a quarter for flows of
/// datagrams there remains another that nobody on the host can take from port-forward.
const MOST_HERE: usize = MOST_CONNECTIONS / 2;

/// Connections that the kernel keeps for a port until they are taken.
const BACKLOG: u32 = 64;

/// How long nobody is accepted after one could not be: file descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How long a connection to ourselves may take that shows whether the host redirects.
const TRIAL_LIMIT: Duration = Duration::from_secs(1);

/// Ports that are named in a warning; of more of them their number is told.
const MOST_NAMED: usize = 8;

/// Ports of the Pod's address, listened on.
#[derive(Debug, Default)]
pub struct PodPorts {
    redirected: Option<TcpListener>,
    redirected_datagrams: Option<UdpSocket>,
    listed: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
}

impl PodPorts {
    /// Listens at the Pod's address, that of `control`, on the port that the host redirects others to. Who comes before
    /// there is a guest waits.
    ///
    /// Call it before anybody listens at `control`: of a launcher that has the one port and not the other, the node thinks
    /// that it will never have it.
    pub fn reserve(control: SocketAddr) -> Self {
        // With another control port it is no Pod's address, and nothing is redirected there.
        let address = (control.port() == CONTROL_PORT).then(|| (control.ip(), REDIRECT_PORT).into());
        let redirected = address.and_then(|address| match listen(address) {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::warn!(%address, %error, "only listed ports of the guest can be open at the Pod's address");
                None
            }
        });
        let redirected_datagrams = address.and_then(|address| match pod_datagrams::redirected(address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                // An ordinary user's launcher may not.
                tracing::debug!(%address, %error, "only listed UDP ports of the guest can be open at the Pod's address");
                None
            }
        });
        Self { redirected, redirected_datagrams, ..Self::default() }
    }

    /// Listens on the ports that are listed too, but for the TCP port of `control`, which is the launcher's own there; and
    /// says which cannot be had, unless the host redirects them.
    ///
    /// Call it with the right to ports below 1024 (`CAP_NET_BIND_SERVICE`) where there is one.
    pub async fn open(&mut self, control: SocketAddr, ports: &Ports) -> Option<String> {
        // Of a start that has failed.
        self.listed.clear();
        self.datagrams.clear();
        let address = control.ip();
        let mut closed = Vec::new();
        for port in ports.listed(Protocol::Tcp) {
            let added = match port {
                REDIRECT_PORT if self.redirected.is_some() => continue,
                _ if port == control.port() => Err("it is the launcher's own".to_owned()),
                _ => add(&mut self.listed, || listen((address, port).into())),
            };
            closed.extend(added.err().map(|why| (port, why)));
        }
        if closed.iter().any(|(port, _)| *port != control.port())
            && let Some(redirected) = &self.redirected
        {
            match is_redirected(redirected).await {
                Ok(true) => closed.retain(|(port, _)| *port == control.port()),
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "whether the host redirects cannot be tried"),
            }
        }
        let mut told: Vec<_> = closed.into_iter().map(|(port, why)| format!("{port} ({why})")).collect();
        for port in ports.listed(Protocol::Udp) {
            if port == REDIRECT_PORT && self.redirected_datagrams.is_some() {
                continue;
            }
            let added = add(&mut self.datagrams, || pod_datagrams::listen((address, port).into()));
            told.extend(added.err().map(|why| format!("udp/{port} ({why})")));
        }
        warning(address, &told)
    }

    /// Connects who comes to the guest behind `door`, in tasks that end with it.
    pub fn serve(self, door: &Door) {
        let places = Arc::new(Semaphore::new(MOST_HERE));
        for listener in self.redirected.into_iter().chain(self.listed) {
            tokio::spawn(accept(listener, door.clone(), Arc::clone(&places)));
        }
        pod_datagrams::serve(self.redirected_datagrams, self.datagrams, door);
    }
}

/// Adds a port that `listen` listens on, unless there are enough.
fn add<L>(listened: &mut Vec<L>, listen: impl FnOnce() -> io::Result<L>) -> Result<(), String> {
    if listened.len() == MOST_PORTS {
        return Err(format!("only {MOST_PORTS} are opened"));
    }
    listened.push(listen().map_err(|error| error.to_string())?);
    Ok(())
}

/// Whether the host redirects connections to the address of `redirected` to its port. It is tried out: nobody else may
/// accept there meanwhile.
///
/// # Errors
/// When it cannot be tried.
pub async fn is_redirected(redirected: &TcpListener) -> io::Result<bool> {
    let other = TcpListener::bind((redirected.local_addr()?.ip(), 0)).await?;
    let trial = async {
        let _client = TcpStream::connect(other.local_addr()?).await?;
        tokio::select! {
            accepted = other.accept() => accepted.map(|_| false),
            accepted = redirected.accept() => accepted.map(|_| true),
        }
    };
    timeout(TRIAL_LIMIT, trial).await?
}

/// The port that a client has connected to.
fn wanted_port(client: &TcpStream) -> io::Result<u16> {
    match rustix::net::sockopt::ip_original_dst(client) {
        Ok(wanted) => Ok(wanted.port()),
        // Nothing tracks connections here, so nothing redirects them either.
        Err(_) => client.local_addr().map(|address| address.port()),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A machine that comes back finds connections of the one before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Which ports are closed, each with the reason, and the way to them.
fn warning(address: IpAddr, closed: &[String]) -> Option<String> {
    if closed.is_empty() {
        return None;
    }
    let mut named = closed[..closed.len().min(MOST_NAMED)].join(", ");
    if closed.len() > MOST_NAMED {
        named += &format!(", and {} more", closed.len() - MOST_NAMED);
    }
    Some(format!(
        "of the interface's `ports` some are not open at the Pod's address {address}: {named}; port-forward reaches them"
    ))
}

async fn accept(listener: TcpListener, door: Door, places: Arc<Semaphore>) {
    loop {
        let accepted = tokio::select! {
            () = door.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, _)) => {
                // One of each port waits here and others in the kernel; a port where nobody comes takes no place.
                // It is never closed.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let door = door.clone();
                tokio::spawn(async move {
                    relay(client, &door).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to a port of the guest cannot be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn relay(mut client: TcpStream, door: &Door) {
    // Small pieces come as they were sent; without it they only come later.
    let _ = client.set_nodelay(true);
    if let Err(error) = carry(&mut client, door).await {
        tracing::debug!(error, "a connection to a port of the guest ends");
        // What the client has is not all there was, and it must not take it for that; when this fails it is gone.
        let _ = client.set_zero_linger();
    }
}

async fn carry(client: &mut TcpStream, door: &Door) -> Result<(), String> {
    let port = wanted_port(client).map_err(|error| error.to_string())?;
    let mut guest = door.connect(port).await.map_err(|error| error.to_string())?;
    let carried = copy_bidirectional_with_sizes(client, &mut guest, PIECE_BYTES, PIECE_BYTES).await;
    carried.map(drop).map_err(|error| format!("port {port}: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Among the addresses of the host's loopback one that no other test has.
    const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 89, 7, 1));

    fn ports(ranges: &[(Protocol, u16, u16)]) -> Ports {
        Ports(ranges.iter().map(|(protocol, first, last)| (*protocol, *first..=*last)).collect())
    }

    /// A guest whose every port says its number.
    fn door(ports: Ports) -> Door {
        Door::to(ports, |port| {
            let (mut guest, stream) = tokio::io::duplex(64);
            tokio::spawn(async move { guest.write_all(format!("guest's {port}").as_bytes()).await });
            Ok(stream)
        })
    }

    /// What a client is told.
    async fn said(address: SocketAddr) -> Result<String, io::ErrorKind> {
        let mut said = String::new();
        let mut client = TcpStream::connect(address).await.unwrap();
        let read = timeout(Duration::from_secs(20), client.read_to_string(&mut said)).await.unwrap();
        read.map(|_| said).map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn listed_ports_are_open_and_what_cannot_be_had_is_told() {
        let taken = TcpListener::bind((POD, 0)).await.unwrap().local_addr().unwrap().port();
        let holder = TcpListener::bind((POD, taken)).await.unwrap();
        let free = TcpListener::bind((POD, 0)).await.unwrap().local_addr().unwrap().port();
        let control = SocketAddr::from((POD, 1));
        let tcp = |port| (Protocol::Tcp, port, port);
        let udp = |port| (Protocol::Udp, port, port);
        let datagrams = UdpSocket::bind((POD, 0)).await.unwrap();
        let busy = datagrams.local_addr().unwrap().port();
        // TCP and UDP have nothing of each other's, the launcher's own port either.
        let listed =
            ports(&[tcp(1), tcp(taken), tcp(free), tcp(free), udp(taken), udp(busy), udp(CONTROL_PORT)]);
        let mut open = PodPorts::reserve(control);
        assert!(open.redirected.is_none(), "it is no Pod's address");
        let warning = open.open(control, &listed).await;
        let addresses: Vec<_> = open.listed.iter().map(|listener| listener.local_addr().unwrap()).collect();
        assert_eq!(addresses, [SocketAddr::from((POD, free))]);
        let mut expected = [taken, CONTROL_PORT];
        expected.sort_unstable();
        let addresses = open.datagrams.iter().map(|socket| socket.local_addr().unwrap());
        assert!(addresses.eq(expected.map(|port| SocketAddr::from((POD, port)))));
        let mut closed = [(1, "it is the launcher's own"), (taken, "Address already in use (os error 98)")];
        closed.sort_unstable();
        let [(first, first_why), (second, second_why)] = closed;
        let expected = format!(
            "of the interface's `ports` some are not open at the Pod's address 127.89.7.1: {first} ({first_why}), \
             {second} ({second_why}), udp/{busy} (Address already in use (os error 98)); port-forward reaches them"
        );
        assert_eq!(warning, Some(expected));
        drop((holder, datagrams));
    }

    #[tokio::test]
    async fn without_a_list_nothing_is_open_and_a_long_one_is_cut() {
        let control = SocketAddr::from((POD, 1));
        let mut open = PodPorts::default();
        let warning = open.open(control, &Ports::default()).await;
        assert!(open.listed.is_empty() && open.datagrams.is_empty() && warning.is_none());
        let warning = open.open(control, &ports(&[(Protocol::Udp, 20_000, u16::MAX)])).await.unwrap();
        assert_eq!((open.listed.len(), open.datagrams.len()), (0, MOST_PORTS));
        assert!(warning.contains(" (only 128 are opened), udp/") && warning.len() < 600, "{warning}");
        let warning = open.open(control, &ports(&[(Protocol::Tcp, 20_000, u16::MAX)])).await;
        assert_eq!((open.listed.len(), open.datagrams.len()), (MOST_PORTS, 0));
        let warning = warning.unwrap();
        assert!(warning.contains(" (only 128 are opened),") && warning.len() < 600, "{warning}");
        let closed = 65_535 - 20_000 + 1 - MOST_PORTS;
        assert!(warning.ends_with(&format!(", and {} more; port-forward reaches them", closed - MOST_NAMED)));
        // Ports where nobody comes keep no place from those where somebody does.
        let last = open.listed[MOST_PORTS - 1].local_addr().unwrap();
        let door = door(Ports::default());
        open.serve(&door);
        assert_eq!(said(last).await, Ok(format!("guest's {}", last.port())));
    }

    /// Nothing redirects here: who comes to the port of redirection wants that of the guest.
    #[tokio::test]
    async fn a_guests_port_that_is_not_allowed_is_reset() {
        for (number, listed, answer) in [
            (2, ports(&[]), Ok(format!("guest's {REDIRECT_PORT}"))),
            (
                3,
                ports(&[(Protocol::Tcp, REDIRECT_PORT, REDIRECT_PORT)]),
                Ok(format!("guest's {REDIRECT_PORT}")),
            ),
            (4, ports(&[(Protocol::Tcp, 20_080, 20_080)]), Err(io::ErrorKind::ConnectionReset)),
            (5, ports(&[(Protocol::Udp, REDIRECT_PORT, REDIRECT_PORT)]), Err(io::ErrorKind::ConnectionReset)),
        ] {
            let control = SocketAddr::from(([127, 89, 7, number], CONTROL_PORT));
            let mut open = PodPorts::reserve(control);
            assert!(!is_redirected(open.redirected.as_ref().unwrap()).await.unwrap());
            assert_eq!(open.open(control, &listed).await, None);
            let door = door(listed.clone());
            open.serve(&door);
            assert_eq!(said((control.ip(), REDIRECT_PORT).into()).await, answer, "{listed:?}");
        }
    }
}
