//! `-R` to ports (one chosen by the guest) and a socket, with stock ssh; visited by programs inside.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use sandgate_tests::process::Guard;
use sandgate_tests::wait::free_port;

use super::{end, forwarder, taken};
use crate::ground::{Dice, Ground, Stop, Tally};
use crate::servers::here;

/// Visits a port or socket inside as `servers::visit_hash` and `visit_speech` do here; says "good" for each.
const VISITS: &str = r#"
import socket,hashlib,os,sys,time,threading
def to(a):
    for i in range(200):
        s=socket.socket(socket.AF_UNIX if "/" in a else socket.AF_INET)
        try:
            s.connect(a if "/" in a else ("127.0.0.1",int(a)))
            return s
        except OSError:
            s.close(); time.sleep(0.1)
    raise OSError("nobody listens at "+a)
def hash(a):
    b=os.urandom(int.from_bytes(os.urandom(2),"big")*4)
    s=to(a); s.settimeout(60); s.sendall(b); s.shutdown(socket.SHUT_WR)
    got=b"".join(iter(lambda:s.recv(65536),b""))
    return got.decode()==hashlib.sha256(b).hexdigest() or "%d bytes: %r"%(len(b),got)
def speak(a):
    s=to(a); s.settimeout(60); n=0
    while 1:
        d=s.recv(65536)
        if not d: break
        n+=len(d)
    s.sendall(b"x"*1000); s.close()
    return n==100000 or "heard %d"%n
for i in range(4):
    for f,a in ((hash,sys.argv[1]),(speak,sys.argv[2]),(hash,sys.argv[3])):
        try: r=f(a)
        except OSError as e: r=str(e)
        print("good" if r is True else "bad %s: %s"%(a,r),flush=True)
left=[to(sys.argv[1+i%3]) for i in range(int(sys.argv[4]))]
for i,s in enumerate(left):
    s.setblocking(False)
    try:
        while s.send(b"d"*50000) and i%2: pass
    except OSError: pass
    if i%4==0: s.shutdown(socket.SHUT_WR)
print("left",flush=True)
for s in left:
    s.settimeout(60)
    try:
        while s.recv(65536): pass
    except TimeoutError: print("bad a visitor is held though the client is gone",flush=True)
    except OSError: pass
    s.close()
    print("cut",flush=True)
"#;

pub fn run(ground: &Ground, stop: &Stop, tally: &Tally) {
    let mut dice = Dice::new();
    let (hash, speak) = here();
    while !stop.now() {
        let (far_hash, far_speak) = (free_port(), free_port());
        let socket = format!("/tmp/soak-{far_hash}.sock");
        let forwards = [
            format!("{far_hash}:127.0.0.1:{hash}"),
            format!("{far_speak}:localhost:{speak}"),
            format!("{socket}:localhost:{hash}"),
            format!("0:localhost:{hash}"),
        ];
        let mut args = vec!["-N", "-o", "ExitOnForwardFailure=yes"];
        args.extend(forwards.iter().flat_map(|forward| ["-R", forward.as_str()]));
        args.push("box");
        let client = forwarder(ground.ssh(&args));
        visit(ground, tally, [&far_hash.to_string(), &far_speak.to_string(), &socket], &mut dice, client);
        stop.sleep(Duration::from_millis(500));
    }
}

/// Visits. The client is ended while some visitors are in the middle of something: their connections must end, too.
fn visit(ground: &Ground, tally: &Tally, at: [&str; 3], dice: &mut Dice, client: Guard) {
    let count = dice.roll(20).to_string();
    let mut command = ground.target.gateway().command(&["exec", "box", "--", "python3", "-c", VISITS]);
    command.args(at).arg(&count).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut visitors = Guard::spawn(&mut command);
    // Every wait of theirs has an end, so this has one.
    let lines = BufReader::new(taken(|child| child.stdout.take(), &mut visitors)).lines();
    let mut client = Some(client);
    for line in lines.map_while(Result::ok) {
        match line.strip_prefix("bad ") {
            Some(said) => tally.fail(said),
            None if line == "left" => {
                if let Some(client) = client.take() {
                    end(client, dice);
                }
            }
            None if line == "cut" => tally.cut(),
            None => tally.succeed(),
        }
    }
    if visitors.wait(Duration::from_secs(60)) != Some(0) {
        tally.fail("visitors hang, or fail");
    }
}
