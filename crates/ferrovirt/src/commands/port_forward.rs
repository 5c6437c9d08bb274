//! `ferrovirt port-forward`: ports of guests on this host, each connection over a WebSocket of its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use launcher::network::Protocol;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::Context;
use super::api::refusal::RequestError;
use super::api::stream::{End, Said, Stream};
use super::api::targets::Guest;
use super::api::{JSON, Server};
use super::get::there;
use super::serve::ended_by_signal;
use crate::cli::{Forwarding, PortForwardFlags};
use crate::report::{ExitCode, Failure, Reporter, print};

/// Connections at a time; more of them wait until one has ended. A guest of Ferrovirt's takes as many.
const MOST_CONNECTIONS: usize = 128;

/// How long the server and the guest may take to accept a connection; Ferrovirt's give the guest 10 seconds of it.
const DIAL_LIMIT: Duration = Duration::from_secs(30);

/// How long a sender of datagrams, and the guest's answers to it, are waited for.
const STILL: Duration = Duration::from_secs(60);

/// Longest datagram, in bytes.
const MOST_DATAGRAM_BYTES: usize = 65_535;

/// Datagrams of a sender that may wait.
const DATAGRAMS: usize = 16;

/// How long no connection is accepted after one could not be (this process has too many files open).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Forwards until the user ends it.
pub async fn port_forward(context: &Context, flags: PortForwardFlags) -> Result<ExitCode, Failure> {
    if flags.stdio && !matches!(flags.ports[..], [Forwarding { protocol: Protocol::Tcp, .. }]) {
        return Err(Failure::usage("--stdio forwards one TCP port only"));
    }
    let server = Server::find_for(context, flags.guest.namespace.as_deref()).await?;
    let door = Arc::new(Door { server, guest: flags.guest });
    if let (true, [port]) = (flags.stdio, &flags.ports[..]) {
        return over_standard_streams(&door, port.guest).await;
    }
    door.check().await?;
    let mut listeners = Vec::new();
    for &address in &flags.address {
        for port in &flags.ports {
            let listener = match port.protocol {
                Protocol::Tcp => Listener::Tcp(listen(address, port.local).await?),
                Protocol::Udp => Listener::Udp(Arc::new(bound(address, port.local, UdpSocket::bind).await?)),
            };
            listeners.push((listener, *port));
        }
    }
    let ended = ended_by_signal()?;
    let mut accepting = JoinSet::new();
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    for (listener, port) in listeners {
        let (local, kind) = match &listener {
            Listener::Tcp(listener) => (listener.local_addr(), ""),
            Listener::Udp(socket) => (socket.local_addr(), "udp/"),
        };
        let local = local.context("cannot read the address of a listener")?;
        print(&format!("Forwarding from {local} -> {kind}{}\n", port.guest))?;
        let (door, permits, reporter) = (Arc::clone(&door), Arc::clone(&permits), context.reporter);
        match listener {
            Listener::Tcp(listener) => accepting.spawn(accept(listener, port, door, permits, reporter)),
            Listener::Udp(socket) => accepting.spawn(exchange(socket, port.guest, door, permits, reporter)),
        };
    }
    tokio::select! {
        _ = ended => {}
        // They go on until they are dropped.
        _ = accepting.join_next() => {}
    }
    Ok(ExitCode::Done)
}

/// What this command listens on.
enum Listener {
    Tcp(TcpListener),
    Udp(Arc<UdpSocket>),
}

/// Listens at an address of this host.
///
/// # Errors
/// When somebody else does, or the address is not this host's.
pub async fn listen(address: IpAddr, port: u16) -> Result<TcpListener, Failure> {
    bound(address, port, TcpListener::bind).await
}

/// The same, by `bind`.
async fn bound<T>(
    address: IpAddr,
    port: u16,
    bind: impl AsyncFnOnce(SocketAddr) -> io::Result<T>,
) -> Result<T, Failure> {
    let at = SocketAddr::from((address, port));
    let bound = bind(at).await.with_context(|| format!("cannot listen on `{at}`"));
    bound.map_err(|error| {
        Failure::refused(
            error,
            Some("choose another port, 0 for any that is free, or another --address".to_owned()),
        )
    })
}

/// Forwards datagrams, those of each sender over a stream of its own until it has been [`STILL`].
async fn exchange(
    socket: Arc<UdpSocket>,
    port: u16,
    door: Arc<Door>,
    permits: Arc<Semaphore>,
    reporter: Reporter,
) {
    let mut senders: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut exchanges = JoinSet::new();
    let mut buffer = vec![0; MOST_DATAGRAM_BYTES];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = exchanges.join_next() => {
                senders.retain(|_, sender| !sender.is_closed());
                continue;
            }
        };
        let (datagram, from) = match received {
            Ok((length, from)) => (buffer[..length].to_vec(), from),
            Err(error) => {
                reporter.warning(format_args!("cannot receive a datagram: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let sender = match senders.entry(from) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                // Whoever comes when too many are served is not heard.
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
                reporter.note(format_args!("Handling datagrams of {from}"));
                let (sender, datagrams) = mpsc::channel(DATAGRAMS);
                let (socket, door) = (Arc::clone(&socket), Arc::clone(&door));
                exchanges.spawn(async move {
                    if let Err(failure) = carry_datagrams(&door, &socket, from, port, datagrams).await {
                        reporter.failure(&failure);
                    }
                    drop(permit);
                });
                new.insert(sender)
            }
        };
        // One that there is no room for is lost, as on any network.
        let _ = sender.try_send(datagram);
    }
}

/// Carries the datagrams of one sender.
async fn carry_datagrams(
    door: &Door,
    socket: &UdpSocket,
    from: SocketAddr,
    port: u16,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
) -> Result<(), Failure> {
    let mut stream = door.open(Protocol::Udp, port).await?;
    loop {
        tokio::select! {
            said = stream.next() => match said {
                Said::Bytes(datagram) => {
                    if let Err(error) = socket.send_to(&datagram, from).await {
                        tracing::debug!(%error, port, "an answer is lost");
                    }
                }
                Said::Ended => return Ok(()),
                Said::Cut => return Err(door.cut(port)),
            },
            Some(datagram) = datagrams.recv() => {
                if stream.say(datagram).await.is_err() {
                    return Err(door.cut(port));
                }
            }
            () = tokio::time::sleep(STILL) => {
                stream.leave().await;
                return Ok(());
            }
        }
    }
}

/// Accepts connections, and forwards each.
async fn accept(
    listener: TcpListener,
    port: Forwarding,
    door: Arc<Door>,
    permits: Arc<Semaphore>,
    reporter: Reporter,
) {
    let mut connections = JoinSet::new();
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                reporter.warning(format_args!("cannot accept a connection: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let door = Arc::clone(&door);
        connections.spawn(async move {
            reporter.note(format_args!("Handling connection for {}", port.local_of(&client)));
            if let Err(failure) = forward(&door, client, port.guest).await {
                reporter.failure(&failure);
            }
            drop(permit);
        });
    }
}

impl Forwarding {
    /// The port that a client has come to.
    fn local_of(self, client: &TcpStream) -> u16 {
        client.local_addr().map_or(self.local, |address| address.port())
    }
}

/// Carries one connection.
async fn forward(door: &Door, mut client: TcpStream, port: u16) -> Result<(), Failure> {
    // Small pieces are as they were sent; without it they only come later.
    let _ = client.set_nodelay(true);
    let stream = door.open(Protocol::Tcp, port).await?;
    let (from, to) = client.split();
    match stream.carry(from, to).await {
        Ok(End::Guest | End::Own) => {}
        Ok(End::Cut) => {
            // What the client has is not all there was, and it must not take it for that.
            let _ = client.set_zero_linger();
            return Err(door.cut(port));
        }
        // The client is gone, and so is the guest's connection with the stream.
        Err(error) => tracing::debug!(%error, port, "a client is gone"),
    }
    Ok(())
}

async fn over_standard_streams(door: &Door, port: u16) -> Result<ExitCode, Failure> {
    let stream = door.open(Protocol::Tcp, port).await?;
    match stream.carry(tokio::io::stdin(), tokio::io::stdout()).await {
        Ok(End::Guest | End::Own) => Ok(ExitCode::Done),
        Ok(End::Cut) => Err(door.cut(port)),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::reader_gone()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot use standard input and output").into()),
    }
}

/// A guest and the way to it.
struct Door {
    server: Server,
    guest: Guest,
}

impl Door {
    /// The guest in an error.
    fn described(&self) -> String {
        self.guest.kind.resource().object(Some(&self.server.namespace), &self.guest.name)
    }

    /// Looks whether there is such a guest, as far as that may be seen: to forward takes another right than to look.
    async fn check(&self) -> Result<(), Failure> {
        let namespace = Some(self.server.namespace.as_str());
        let resource = self.guest.kind.resource();
        match self.server.get(&resource.path(namespace, Some(&self.guest.name)), JSON).await {
            Err(RequestError::Refused(refusal)) if refusal.code == 403 => Ok(()),
            Err(error) => Err(self.refused(error, format!("cannot forward ports to {}", self.described()))),
            Ok(_) => Ok(()),
        }
    }

    /// Connects to a port of the guest.
    async fn open(&self, protocol: Protocol, port: u16) -> Result<Stream, Failure> {
        let Guest { kind, name, .. } = &self.guest;
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let path = kind.resource().subresource_path(
            &self.server.namespace,
            name,
            &format!("portforward/{port}/{protocol}"),
        );
        let what = || format!("cannot connect to port {port} of {}", self.described());
        match tokio::time::timeout(DIAL_LIMIT, self.server.stream(&path)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.refused(error, what())),
            Err(_) => {
                let error = anyhow::anyhow!("there is no answer within {DIAL_LIMIT:?}").context(what());
                Err(error.into())
            }
        }
    }

    fn refused(&self, error: RequestError, what: String) -> Failure {
        let Guest { kind, name, .. } = &self.guest;
        let namespace = &self.server.namespace;
        let hint = match &error {
            error if error.is_not_found() => Some(there(kind.resource(), Some(namespace))),
            RequestError::Refused(refusal) if refusal.message.ends_with("VMI is not started") => {
                Some(format!("start it: ferrovirt start {name} -n {namespace}"))
            }
            RequestError::Refused(refusal) if refusal.message.ends_with("VMI is paused") => {
                Some(format!("let it go on: ferrovirt unpause {name} -n {namespace}"))
            }
            _ => None,
        };
        error.failure(what, hint)
    }

    fn cut(&self, port: u16) -> Failure {
        anyhow::anyhow!("the connection to port {port} of {} was cut", self.described()).into()
    }
}
