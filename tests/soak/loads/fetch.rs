//! `git fetch` over ssh from inside the sandbox, every few seconds, with the forwarded agent. The server is an sshd inside the same sandbox, which
//! has no network.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use sandgate_tests::process::Guard;

use super::taken;
use crate::ground::{Ground, Stop, Tally};

const SCRIPT: &str = r#"set -e
D=$(mktemp -d); cd $D
mkdir -p /run/sshd
grep -q ^sshd: /etc/passwd || echo sshd:x:100:65534::/run/sshd:/usr/sbin/nologin >>/etc/passwd
ssh-keygen -q -t ed25519 -N '' -f host
printf '%s\n' "$KEY" >keys
printf '%s\n' "HostKey $D/host" "AuthorizedKeysFile $D/keys" 'StrictModes no' 'UsePAM no' 'PermitRootLogin yes' >cfg
export GIT_SSH_COMMAND="ssh -F /dev/null -o 'ProxyCommand=/usr/sbin/sshd -i -f $D/cfg -E $D/log' -o UserKnownHostsFile=/dev/null \
  -o StrictHostKeyChecking=no -o LogLevel=ERROR -o BatchMode=yes -o IdentityFile=none"
export GIT_AUTHOR_NAME=s GIT_AUTHOR_EMAIL=s@s GIT_COMMITTER_NAME=s GIT_COMMITTER_EMAIL=s@s
git init -q far 2>/dev/null; git -C far commit -q --allow-empty -m first
git init -q near 2>/dev/null; git -C near remote add origin ssh://root@inner$D/far
trap 'rm -rf $D' EXIT
while sleep 2; do
  git -C far commit -q --allow-empty -m "$(date +%s%N)"
  if said=$(git -C near fetch -q origin 2>&1) && [ "$(git -C near rev-parse FETCH_HEAD)" = "$(git -C far rev-parse HEAD)" ]
  then echo good; else echo "bad $(echo $said $(tail -n 1 log))"; fi
done
"#;

pub fn run(ground: &Ground, stop: &Stop, tally: &Tally) {
    while !stop.now() {
        let script = format!("KEY='{}'\n{SCRIPT}", ground.public_key());
        let mut command = ground.ssh(&["-A", "box", &script]);
        let mut session = Guard::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        let lines = BufReader::new(taken(|child| child.stdout.take(), &mut session)).lines();
        for line in lines.map_while(Result::ok) {
            match line.strip_prefix("bad ") {
                None => tally.succeed(),
                Some(_) if ground.agent_was_away() => tally.excuse(),
                Some(said) => tally.fail(said),
            }
            if stop.now() {
                return;
            }
        }
        if !stop.now() {
            tally.fail("the session with the forwarded agent has ended");
        }
    }
}
