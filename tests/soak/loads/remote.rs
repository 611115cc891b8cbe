//! `-R` to ports (one chosen by the guest) and a socket, with stock ssh; visited by programs inside.

use std::time::Duration;

use sandgate_tests::Feed;
use sandgate_tests::process::{Guard, try_run};
use sandgate_tests::wait::free_port;

use super::{end, forwarder};
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
left=[to(sys.argv[1+i%2]) for i in range(int(sys.argv[4]))]
for s in left: s.send(b"d"*1000)
print("left",flush=True)
time.sleep(1)
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

/// Visits, and ends the client while some visitors are still there.
fn visit(ground: &Ground, tally: &Tally, at: [&str; 3], dice: &mut Dice, client: Guard) {
    let left = dice.roll(20);
    let count = left.to_string();
    let mut command = ground.target.gateway().command(&["exec", "box", "--", "python3", "-c", VISITS]);
    command.args(at).arg(&count);
    let visits = std::thread::spawn(move || try_run(&mut command, Feed::Null, Duration::from_secs(150)).ok());
    let output = match visits.join() {
        Ok(Some(output)) => output,
        _ => return tally.fail("visitors hang"),
    };
    for line in output.text().lines() {
        match line.strip_prefix("bad ") {
            Some(said) => tally.fail(said),
            None if line == "good" => tally.succeed(),
            None => (0..left).for_each(|_| tally.cut()),
        }
    }
    if output.code != 0 {
        tally.fail(&output.errors());
    }
    end(client, dice);
}
