//! Connections to what QEMU serves on sockets in its own directory.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long QEMU may take to let a client in: the kernel does it.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Connects to QEMU. The socket's directory is QEMU's own, so whoever answers must be its user: a QEMU that its guest has
/// taken over may have put a way to somebody else there.
pub(crate) async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "QEMU does not answer");
    let stream = timeout(CONNECT_LIMIT, UnixStream::connect(socket)).await.map_err(late)??;
    let owner = socket.parent().map(std::fs::metadata).transpose()?.map(|directory| directory.uid());
    if Some(stream.peer_cred()?.uid()) != owner {
        return Err(io::Error::other("somebody else than QEMU answers"));
    }
    Ok(stream)
}
