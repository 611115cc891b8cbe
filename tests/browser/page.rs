//! A page's side of a terminal: requests on the control socket, and the WebSocket.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sandgate_tests::gateway::Gateway;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Error, Message, WebSocket};

/// How long something may take to come.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long one look at the socket waits.
const LOOK: Duration = Duration::from_millis(100);

/// Requests on the control socket.
pub struct Api(PathBuf);

impl Api {
    pub fn new(gateway: &Gateway) -> Self {
        Self(gateway.data_dir().join("control.sock"))
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.request("POST", path, Some(body));
        assert_eq!(status, 201, "{path}: {answer}");
        answer
    }

    /// The words of a refusal.
    #[track_caller]
    pub fn refused(&self, path: &str, body: &Value) -> String {
        let (status, answer) = self.request("POST", path, Some(body));
        assert!(status >= 400, "{path}: {answer}");
        answer["detail"].as_str().expect("a detail").to_owned()
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let (status, answer) = self.request("GET", path, None);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    #[track_caller]
    pub fn delete(&self, path: &str) {
        let (status, answer) = self.request("DELETE", path, None);
        assert_eq!(status, 204, "{path}: {answer}");
    }

    /// Status and answer, whatever they are.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = self.stream();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    fn stream(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.0).expect("the control socket");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// A WebSocket on which nothing was said yet.
    #[track_caller]
    pub fn connect(&self) -> Page {
        let mut request = "ws://localhost/api/v1/terminal".into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "sandgate.terminal.v1".parse().unwrap());
        let (socket, answer) = tungstenite::client::client(request, self.stream()).expect("a WebSocket");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "sandgate.terminal.v1");
        socket.get_ref().set_read_timeout(Some(LOOK)).unwrap();
        Page {
            socket,
            output: Vec::new(),
            passed: 0,
            texts: VecDeque::new(),
            acknowledges: true,
            closed: None,
        }
    }

    /// A page that has shown its ticket.
    #[track_caller]
    pub fn attach(&self, ticket: &str, cols: u32, rows: u32) -> Page {
        let mut page = self.connect();
        page.says(
            &json!({ "type": "attach", "ticket": ticket, "cols": cols, "rows": rows, "xpixel": 0, "ypixel": 0 }),
        );
        page
    }
}

/// A page.
pub struct Page {
    socket: WebSocket<UnixStream>,
    /// All output so far.
    pub output: Vec<u8>,
    /// How much of it earlier calls have passed over.
    passed: usize,
    texts: VecDeque<Value>,
    /// Whether it says what it has read.
    pub acknowledges: bool,
    closed: Option<u16>,
}

impl Page {
    #[track_caller]
    pub fn types(&mut self, text: &str) {
        self.socket.send(Message::Binary(text.as_bytes().to_vec().into())).expect("typed");
    }

    #[track_caller]
    pub fn says(&mut self, message: &Value) {
        self.says_text(&message.to_string());
    }

    #[track_caller]
    pub fn says_text(&mut self, text: &str) {
        self.socket.send(Message::Text(text.into())).expect("said");
    }

    /// Waits for `text` in the output that no earlier call has passed over, and returns what came up to its end.
    #[track_caller]
    pub fn sees(&mut self, text: &str) -> String {
        let end = Instant::now() + DEADLINE;
        let mut looked = self.passed;
        loop {
            let fresh = &self.output[looked..];
            if let Some(at) = find(fresh, text.as_bytes()) {
                let to = looked + at + text.len();
                let before = String::from_utf8_lossy(&self.output[self.passed..to]).into_owned();
                self.passed = to;
                return before;
            }
            // The text may have come in part.
            looked = self.output.len().saturating_sub(text.len()).max(self.passed);
            let tail = String::from_utf8_lossy(&self.output[self.output.len().saturating_sub(2000)..]);
            assert!(Instant::now() < end, "no {text:?} in {tail:?}; {:?}", self.texts);
            assert!(
                self.closed.is_none(),
                "closed with {:?}, no {text:?} in {tail:?}; {:?}",
                self.closed,
                self.texts
            );
            self.look();
        }
    }

    /// Waits for a message of this type; others stay, in their order.
    #[track_caller]
    pub fn text(&mut self, kind: &str) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.texts.iter().position(|text| text["type"] == kind) {
                return self.texts.remove(at).unwrap();
            }
            assert!(
                Instant::now() < end && self.closed.is_none(),
                "no {kind}: {:?} {:?}",
                self.texts,
                self.closed
            );
            self.look();
        }
    }

    /// Waits for how the session ended or why it did not start: an `exit` or an `error`.
    #[track_caller]
    pub fn last(&mut self) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(at) =
                self.texts.iter().position(|text| text["type"] == "exit" || text["type"] == "error")
            {
                return self.texts.remove(at).unwrap();
            }
            assert!(Instant::now() < end && self.closed.is_none(), "{:?} {:?}", self.texts, self.closed);
            self.look();
        }
    }

    /// Waits for the `exit`, and shows all output so far each time that something comes.
    #[track_caller]
    pub fn end_with(&mut self, mut look: impl FnMut(&[u8])) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.texts.iter().position(|text| text["type"] == "exit") {
                return self.texts.remove(at).unwrap();
            }
            assert!(Instant::now() < end && self.closed.is_none(), "{:?} {:?}", self.texts, self.closed);
            let before = self.output.len();
            self.look();
            if self.output.len() > before {
                look(&self.output);
            }
        }
    }

    /// Waits for the end, and gives its code.
    #[track_caller]
    pub fn close(&mut self) -> u16 {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(code) = self.closed {
                return code;
            }
            assert!(Instant::now() < end, "it is still open");
            self.look();
        }
    }

    /// Everything that is on the screen or above, as text.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// Forgets the output so far.
    pub fn forget(&mut self) {
        self.output.clear();
        self.passed = 0;
    }

    pub fn reads_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look();
        }
    }

    fn look(&mut self) {
        match self.socket.read() {
            Ok(Message::Binary(data)) => {
                self.output.extend_from_slice(&data);
                if self.acknowledges {
                    self.says(&json!({ "type": "ack", "bytes": data.len() }));
                }
            }
            Ok(Message::Text(text)) => self.texts.push_back(serde_json::from_str(&text).expect("JSON")),
            Ok(Message::Close(frame)) => self.closed = Some(frame.map_or(0, |frame| frame.code.into())),
            Ok(_) => {}
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => {
                if self.closed.is_none() {
                    panic!("the connection broke: {error}; {:?}", self.texts);
                }
            }
        }
    }
}

pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    find(haystack, needle).is_some()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
