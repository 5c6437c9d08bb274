//! Streams of instances over a WebSocket, as virtctl opens them.

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::client::Credentials;
use crate::room::Room;
use crate::server::DEADLINE;

const PROTOCOL: &str = "plain.kubevirt.io";

/// A client's end of a WebSocket.
pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Opens `virtualmachineinstances/NAME/console` or the like; otherwise the code and the body of the answer.
pub async fn open(room: &Room, path: &str) -> Result<Socket, (u16, Value)> {
    let credentials = Credentials::read_file(&room.world.path("state/apiserver/admin.kubeconfig"));
    let stream = credentials.stream(room.address()).await.unwrap();
    let uri = format!(
        "wss://localhost:{}/apis/subresources.kubevirt.io/v1/namespaces/default/{path}",
        room.address().port()
    );
    let mut request = uri.into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", PROTOCOL.parse().unwrap());
    match timeout(DEADLINE, tokio_tungstenite::client_async(request, stream)).await.unwrap() {
        Ok((socket, response)) => {
            assert_eq!(response.headers()["sec-websocket-protocol"], PROTOCOL);
            Ok(socket)
        }
        Err(Error::Http(response)) => {
            assert_eq!(response.headers()["content-type"], "application/json");
            let code = response.status().as_u16();
            Err((code, serde_json::from_slice(response.body().as_deref().unwrap()).unwrap()))
        }
        Err(error) => panic!("{error}"),
    }
}
