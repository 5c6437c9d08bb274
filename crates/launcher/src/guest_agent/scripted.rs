//! An agent that tests play.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::Agent;

/// An agent that answers what `answer` makes of each command.
pub(crate) async fn agent(mut answer: impl FnMut(Value) -> Value + Send + 'static) -> Agent {
    let (ours, guest) = UnixStream::pair().unwrap();
    let (reader, mut writer) = guest.into_split();
    tokio::spawn(async move {
        let mut reader = BufReader::new(reader);
        loop {
            let mut lines = [Vec::new(), Vec::new()];
            for line in &mut lines {
                if reader.read_until(b'\n', line).await.unwrap() == 0 {
                    return;
                }
            }
            let sync: Value = serde_json::from_slice(&lines[0][1..]).unwrap();
            let answer = answer(serde_json::from_slice(&lines[1]).unwrap());
            let said = format!("{{\"return\": {}}}\n{answer}\n", sync["arguments"]["id"]);
            writer.write_all(&[b"\xff".as_slice(), said.as_bytes()].concat()).await.unwrap();
        }
    });
    Agent::connected(ours).await
}
