//! `ferrovirt port-forward`: ports of guests on this host, each connection over a WebSocket of its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Context;
use super::api::refusal::RequestError;
use super::api::stream::{End, Stream};
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

/// How long no connection is accepted after one could not be (this process has too many files open).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Forwards until the user ends it.
pub async fn port_forward(context: &Context, flags: PortForwardFlags) -> Result<ExitCode, Failure> {
    if flags.stdio && flags.ports.len() != 1 {
        return Err(Failure::usage("--stdio forwards one port only"));
    }
    let named = flags.guest.namespace.as_deref().or(flags.namespace.namespace.as_deref());
    let server = Server::find(context, named).await?;
    let door = Arc::new(Door { server, guest: flags.guest });
    if let (true, [port]) = (flags.stdio, &flags.ports[..]) {
        return over_standard_streams(&door, port.guest).await;
    }
    door.check().await?;
    let mut listeners = Vec::new();
    for &address in &flags.address {
        for port in &flags.ports {
            listeners.push((listen(address, port.local).await?, *port));
        }
    }
    let ended = ended_by_signal()?;
    let mut accepting = JoinSet::new();
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    for (listener, port) in listeners {
        let local = listener.local_addr().context("cannot read the address of a listener")?;
        print(&format!("Forwarding from {local} -> {}\n", port.guest))?;
        accepting.spawn(accept(listener, port, Arc::clone(&door), Arc::clone(&permits), context.reporter));
    }
    tokio::select! {
        _ = ended => {}
        // They go on until they are dropped.
        _ = accepting.join_next() => {}
    }
    Ok(ExitCode::Done)
}

/// Listens at an address of this host.
///
/// # Errors
/// When somebody else does, or the address is not this host's.
pub async fn listen(address: IpAddr, port: u16) -> Result<TcpListener, Failure> {
    let at = SocketAddr::from((address, port));
    let bound = TcpListener::bind(at).await.with_context(|| format!("cannot listen on `{at}`"));
    bound.map_err(|error| {
        Failure::refused(
            error,
            Some("choose another port, 0 for any that is free, or another --address".to_owned()),
        )
    })
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
    let stream = door.open(port).await?;
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
    let stream = door.open(port).await?;
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
    async fn open(&self, port: u16) -> Result<Stream, Failure> {
        let Guest { kind, name, .. } = &self.guest;
        let path = kind.resource().subresource_path(
            &self.server.namespace,
            name,
            &format!("portforward/{port}/tcp"),
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
