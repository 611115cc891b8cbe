//! `-D`: connections by way of SOCKS 5, with stock ssh, over one master connection with sessions beside.

use std::time::Duration;

use sandgate_tests::wait::free_port;

use super::{end, forwarder};
use crate::ground::{Dice, Ground, Stop, Tally};
use crate::servers::{Stream, dangling, visit_hash};

/// Where the server is; [`super::local`] runs it, this load has one of its own at another place.
const SERVER: u16 = 7103;

pub fn run(ground: &Ground, stop: &Stop, tally: &Tally) {
    let mut dice = Dice::new();
    let server = format!(
        "import socket,hashlib,threading\n\
         l=socket.create_server((\"127.0.0.1\",{SERVER}),backlog=256)\n\
         def one(c):\n h=hashlib.sha256()\n try:\n  while 1:\n   d=c.recv(65536)\n   if not d: break\n   h.update(d)\n  c.sendall(h.hexdigest().encode())\n except OSError: pass\n c.close()\n\
         while 1:\n c,_=l.accept(); threading.Thread(target=one,args=(c,),daemon=True).start()"
    );
    let _server =
        forwarder(ground.target.gateway().command(&["exec", "box", "--", "python3", "-c", &server]));
    while !stop.now() {
        let port = free_port();
        let client = forwarder(ground.ssh(&["-N", "-D", &port.to_string(), "box"]));
        for _ in 0..6 {
            // The server may still be starting.
            let mut result = Err(String::new());
            for _ in 0..20 {
                result = Stream::tcp(port).and_then(|stream| through(stream, SERVER));
                if result.is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            tally.count(result.and_then(|stream| visit_hash(stream, &mut dice)));
        }
        let streams = (0..dice.roll(10)).filter_map(|_| through(Stream::tcp(port).ok()?, SERVER).ok());
        let left = dangling(streams.collect(), &mut dice);
        left.iter().for_each(|_| tally.cut());
        end(client, &mut dice);
        stop.sleep(Duration::from_millis(500));
    }
}

/// Asks a SOCKS server for `localhost:port` (RFC 1928).
fn through(mut stream: Stream, port: u16) -> Result<Stream, String> {
    let mut ask = vec![5, 1, 0];
    let mut answer = [0; 2];
    let said = stream.send(&ask).and_then(|()| stream.receive(&mut answer));
    said.map_err(|error| format!("SOCKS: {error}"))?;
    ask = vec![5, 1, 0, 3, 9];
    ask.extend_from_slice(b"localhost");
    ask.extend_from_slice(&port.to_be_bytes());
    let mut answer = [0; 10];
    let said = stream.send(&ask).and_then(|()| stream.receive(&mut answer));
    said.map_err(|error| format!("SOCKS: {error}"))?;
    if answer[1] == 0 { Ok(stream) } else { Err(format!("SOCKS says {}", answer[1])) }
}
