//! A server for trying the core with stock clients. It lets everybody in and runs nothing: the "commands" are built in.
//!
//! ```text
//! cargo run --release -p sandgate-ssh --example echo_server -- 127.0.0.1:2222
//! ssh -p 2222 anyone@127.0.0.1 cat < file      # also: echo TEXT, exit N, signal NAME, send BYTES, errors BYTES, sink, yes, hold
//! ```
//!
//! User names with a meaning: `deny` is refused, `password` needs the password `secret`, `asked` is asked by
//! keyboard-interactive, `both` needs a key and then the password.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use sandgate_ssh::Config;
use sandgate_ssh::driver::{
    AuthQuestion, Channel, ChannelReader, ChannelWriter, ConnectionHandle, Event, Request, accept,
};
use sandgate_ssh::event::{
    AuthMethod, ChannelOpen, ChannelRequest, CoreDump, Echo, ExitSignal, OpenFailure, Prompt, StreamKind,
};
use sandgate_ssh::hostkey::{HostKey, HostKeyKind};
use sandgate_ssh::transport;
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().unwrap_or_else(|| "127.0.0.1:2222".to_owned()).parse()?;
    let key = Arc::new(HostKey::generate(HostKeyKind::Ed25519, "example")?);
    let mut settings = transport::Config::new(vec![key]);
    if let Some(bytes) = arguments.next() {
        settings.rekey_bytes = bytes.parse()?;
    }
    let config = Arc::new(Config::new(Arc::new(settings)));
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream, peer, Arc::clone(&config)));
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, config: Arc<Config>) {
    let (driver, connection) = accept(stream, config);
    let (ended, ()) = tokio::join!(driver, application(connection));
    println!("{peer}: {ended}");
}

async fn application(connection: ConnectionHandle) {
    while let Some(event) = connection.next_event().await {
        match event {
            Event::Auth(question) => login(question).await,
            Event::Open(question) => match question.kind() {
                ChannelOpen::Session => {
                    tokio::spawn(session(question.accept()));
                }
                kind => {
                    println!("refused: {kind:?}");
                    question.refuse(OpenFailure::connect_failed("This server forwards nothing."));
                }
            },
            Event::Global(question) => {
                println!("refused: {:?}", question.request());
                question.refuse();
            }
            _ => {}
        }
    }
}

async fn login(mut question: AuthQuestion) {
    println!("login: {:?}", question.method());
    let is_key =
        matches!(question.method(), AuthMethod::PublicKey { .. } | AuthMethod::PublicKeyProbe { .. });
    match question.user() {
        b"deny" => question.reject(),
        b"password" => match question.method() {
            AuthMethod::Password(given) if given.as_slice() == b"secret" => question.accept(),
            _ => question.reject_with_methods(&["password"]),
        },
        b"asked" => match question.method() {
            AuthMethod::KeyboardInteractive { .. } => {
                let prompt = Prompt { text: "Say friend: ".to_owned(), echo: Echo::On };
                match question.prompt("", "An old riddle.", &[prompt]).await {
                    Ok(answers) if answers.first().is_some_and(|a| a.as_slice() == b"mellon") => {
                        question.accept()
                    }
                    _ => question.reject(),
                }
            }
            _ => question.reject_with_methods(&["keyboard-interactive"]),
        },
        b"both" => match question.method() {
            AuthMethod::PublicKeyProbe { .. } => question.accept(),
            AuthMethod::PublicKey { .. } => question.partial(&["password"]),
            AuthMethod::Password(given)
                if given.as_slice() == b"secret" && question.completed_methods() > 0 =>
            {
                question.accept();
            }
            _ => question.reject_with_methods(&["publickey"]),
        },
        b"key" if !is_key => question.reject_with_methods(&["publickey"]),
        b"banner" => {
            question.banner("Welcome to nothing.\n");
            question.accept();
        }
        _ => question.accept(),
    }
}

async fn session(channel: Channel) {
    let Channel { mut requests, reader, writer } = channel;
    let mut halves = Some((reader, writer));
    let mut pty = false;
    while let Some(Request { request, question }) = requests.next().await {
        let command = match request {
            ChannelRequest::Pty(_) => {
                pty = true;
                question.accept();
                continue;
            }
            ChannelRequest::Env { .. } => {
                question.accept();
                continue;
            }
            ChannelRequest::Shell => "cat".to_owned(),
            ChannelRequest::Exec { command } => String::from_utf8_lossy(&command).into_owned(),
            other => {
                println!("request: {other:?}");
                continue;
            }
        };
        if let Some((reader, writer)) = halves.take() {
            question.accept();
            tokio::spawn(async move {
                if let Err(error) = run(&command, pty, reader, writer).await {
                    println!("{command}: {error}");
                }
            });
        }
    }
}

async fn run(
    command: &str,
    pty: bool,
    mut reader: ChannelReader,
    mut writer: ChannelWriter,
) -> std::io::Result<()> {
    let (name, argument) = command.split_once(' ').unwrap_or((command, ""));
    let number = argument.parse::<u64>();
    let mut status = 0;
    match name {
        "echo" => writer.write_all(StreamKind::Stdout, format!("{argument}\n").as_bytes()).await?,
        "exit" => status = argument.parse().unwrap_or(255),
        "signal" => {
            writer.exit_signal(&ExitSignal {
                name: argument.to_owned(),
                core: CoreDump::None,
                message: String::new(),
            });
            writer.close();
            return Ok(());
        }
        "send" => zeros(&mut writer, StreamKind::Stdout, number.unwrap_or(0)).await?,
        "errors" => zeros(&mut writer, StreamKind::Stderr, number.unwrap_or(0)).await?,
        "yes" => loop {
            writer.write_all(StreamKind::Stdout, &b"y\n".repeat(4096)).await?;
        },
        "sink" => {
            let mut total = 0usize;
            loop {
                let len = std::future::poll_fn(|cx| reader.poll_peek(cx).map_ok(<[u8]>::len)).await?;
                if len == 0 {
                    break;
                }
                reader.consume(len);
                total += len;
            }
            writer.write_all(StreamKind::Stdout, format!("{total}\n").as_bytes()).await?;
        }
        "late" => {
            tokio::time::sleep(std::time::Duration::from_secs(3)).await;
            tokio::io::copy(&mut reader, &mut writer).await?;
        }
        "hold" => writer.closed().await,
        "cat" if !pty => {
            tokio::io::copy(&mut reader, &mut writer).await?;
        }
        // With a terminal: echo until the end-of-file character.
        "cat" => {
            let mut buf = [0; 1024];
            loop {
                let len = reader.read(&mut buf).await?;
                let data = buf.get(..len).unwrap_or_default();
                let typed = data.split(|byte| *byte == 4).next().unwrap_or_default();
                let shown: Vec<u8> = typed
                    .iter()
                    .flat_map(|b| if *b == b'\r' { vec![b'\r', b'\n'] } else { vec![*b] })
                    .collect();
                writer.write_all(StreamKind::Stdout, &shown).await?;
                if len == 0 || typed.len() < len {
                    break;
                }
            }
        }
        _ => {
            writer.write_all(StreamKind::Stderr, b"no such built-in\n").await?;
            status = 127;
        }
    }
    writer.exit_status(status);
    writer.close();
    Ok(())
}

async fn zeros(writer: &mut ChannelWriter, stream: StreamKind, mut left: u64) -> std::io::Result<()> {
    while left > 0 {
        std::future::poll_fn(|cx| writer.poll_ready(cx)).await?;
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        match writer.try_fill(stream, most, |packets| {
            packets.iter_mut().for_each(|packet| packet.fill(0));
            Ok(packets.iter().map(|packet| packet.len()).sum())
        }) {
            Ok(len) => left = left.saturating_sub(len as u64),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
