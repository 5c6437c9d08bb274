//! What QEMU says on standard error: each line to the log, and the end of it for messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Lines of standard error that are kept, and bytes of each.
const STDERR_LINES: usize = 50;
const STDERR_LINE_BYTES: usize = 1000;

/// The last lines of a stream, collected by a task.
#[derive(Debug)]
pub(super) struct Stderr {
    tail: Arc<Mutex<VecDeque<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Stderr {
    pub(super) fn collect(stream: ChildStderr) -> Self {
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let task = tokio::spawn(keep_last_lines(stream, Arc::clone(&tail)));
        Self { tail, task }
    }

    pub(super) fn so_far(&self) -> Vec<String> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |line: &Vec<u8>| String::from_utf8_lossy(line).trim_end().to_owned();
        tail.iter().map(text).filter(|line| !line.is_empty()).collect()
    }

    /// Everything up to the end of the stream, which comes with the end of the process.
    pub(super) async fn finish(&mut self, limit: Duration) -> Vec<String> {
        if !self.task.is_finished() {
            // Whoever still holds the stream is not QEMU: what has been read is all of it.
            let _ = timeout(limit, &mut self.task).await;
        }
        self.so_far()
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_last_lines(stream: impl tokio::io::AsyncRead + Unpin, tail: Arc<Mutex<VecDeque<Vec<u8>>>>) {
    let mut stream = BufReader::new(stream);
    let mut buffer = [0; 1024];
    loop {
        let length = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in &buffer[..length] {
            if tail.is_empty() {
                tail.push_back(Vec::new());
            }
            if *byte == b'\n' {
                // Escaped, since a guest may have a say in it.
                if let Some(line) = tail.back().filter(|line| !line.is_empty()) {
                    tracing::info!(target: "qemu", "{}", line.escape_ascii());
                }
                tail.push_back(Vec::new());
                if tail.len() > STDERR_LINES + 1 {
                    tail.pop_front();
                }
            } else if let Some(line) = tail.back_mut()
                && line.len() < STDERR_LINE_BYTES
            {
                line.push(*byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn only_the_last_lines_of_standard_error_are_kept_and_long_ones_cut() {
        let mut text: String = (0..STDERR_LINES + 20).map(|number| format!("line {number}\n")).collect();
        text.push_str(&"x".repeat(STDERR_LINE_BYTES * 3));
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        keep_last_lines(text.as_bytes(), Arc::clone(&tail)).await;
        let tail = tail.lock().unwrap();
        assert_eq!(tail.len(), STDERR_LINES + 1);
        assert_eq!(tail.front().unwrap(), b"line 20");
        assert_eq!(tail.back().unwrap().len(), STDERR_LINE_BYTES);
    }
}
