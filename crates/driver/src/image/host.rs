//! The `host` image: the host's programs with none of its secrets.
//!
//! /usr is the host's own, read-only below an overlay. Everything else is made here: an /etc from a short list of harmless
//! files, and empty directories. No /home, /root, /var, /opt, /srv of the host, no shadow file, no keys.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use crate::SandboxSpec;
use crate::shim::Target;
use crate::shim::message::{Failure, Report};
use crate::state::{Identity, ImageMeta, Layer, LayerOwner};

/// Directories of the host that hold its programs. On a merged-/usr system all but the first are links.
const PROGRAM_DIRS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Files and directories of /etc that programs need and that tell nothing. Copied as far as anybody may read them on the host.
const ETC: [&str; 41] = [
    "alternatives",
    "bash.bashrc",
    "bash_completion.d",
    "bindresvport.blacklist",
    "ca-certificates.conf",
    "debian_version",
    "emacs",
    "ethertypes",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "issue",
    "java",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "lesskey",
    "locale.alias",
    "locale.conf",
    "localtime",
    "lsb-release",
    "magic",
    "mailcap",
    "manpath.config",
    "mime.types",
    "nanorc",
    "netconfig",
    "networks",
    "os-release",
    "perl",
    "pki/tls/certs",
    "protocols",
    "python3",
    "python3.11",
    "services",
    "shells",
    "ssl",
    "terminfo",
];

/// More of the kind, in their own list because they come with many versions or names.
const ETC_MORE: [&str; 8] =
    ["timezone", "vim", "virc", "wgetrc", "xattr.conf", "rpc", "profile.d", "python3.13"];

/// Never copied, wherever it lies.
const SECRET_NAMES: [&str; 6] = ["private", "shadow", "gshadow", "ssh", "sudoers", "krb5.keytab"];

/// Most bytes of /etc that are copied: against surprises.
const MAX_ETC: u64 = 64 << 20;

/// Deepest directory of /etc that is copied.
const MAX_DEPTH: usize = 8;

/// Empty directories and their modes.
const DIRECTORIES: [(&str, u32); 25] = [
    ("boot", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/lib/dpkg", 0o755),
    ("var/local", 0o755),
    ("var/log", 0o755),
    ("var/mail", 0o1777),
    ("var/opt", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
    ("etc/opt", 0o755),
];

/// uid and gid of the user that `--user` makes.
const USER_ID: u32 = 1000;

/// Accounts every system has: name, id, home, shell.
const ACCOUNTS: [(&str, u32, &str, &str); 8] = [
    ("daemon", 1, "/usr/sbin", "/usr/sbin/nologin"),
    ("bin", 2, "/bin", "/usr/sbin/nologin"),
    ("sys", 3, "/dev", "/usr/sbin/nologin"),
    ("man", 6, "/var/cache/man", "/usr/sbin/nologin"),
    ("mail", 8, "/var/mail", "/usr/sbin/nologin"),
    ("www-data", 33, "/var/www", "/usr/sbin/nologin"),
    ("_apt", 42, "/nonexistent", "/usr/sbin/nologin"),
    ("nobody", 65534, "/nonexistent", "/usr/sbin/nologin"),
];

/// Groups of every Debian system, and of most others.
const GROUPS: [(&str, u32); 21] = [
    ("daemon", 1),
    ("bin", 2),
    ("sys", 3),
    ("adm", 4),
    ("tty", 5),
    ("disk", 6),
    ("mail", 8),
    ("man", 12),
    ("kmem", 15),
    ("dialout", 20),
    ("cdrom", 24),
    ("tape", 26),
    ("sudo", 27),
    ("audio", 29),
    ("www-data", 33),
    ("shadow", 42),
    ("utmp", 43),
    ("video", 44),
    ("staff", 50),
    ("games", 60),
    ("users", 100),
];

/// Makes the skeleton and names the layers.
pub(crate) fn prepare(
    target: &Target,
    spec: &SandboxSpec,
    identity: &Identity,
    report: &mut Report,
) -> Result<ImageMeta, Failure> {
    if let Some(user) = &spec.user
        && user != "root"
        && identity.size() <= USER_ID
    {
        return Err(Failure::image(format!(
            "the user {user} cannot exist in it, because only root is mapped here: give this user subordinate ids in /etc/subuid \
             and /etc/subgid and install newuidmap, or run the gateway as root"
        )));
    }
    report.step("making /etc and the home directories");
    let skeleton = Skeleton { root: target.dir.skeleton(), owner: identity.root_outside() };
    skeleton.directory("", 0o755)?;
    for (path, mode) in DIRECTORIES {
        skeleton.directory(path, mode)?;
    }
    for (path, to) in [("var/run", "/run"), ("var/lock", "/run/lock"), ("etc/mtab", "../proc/self/mounts")] {
        skeleton.link(path, Path::new(to))?;
    }
    skeleton.file("var/lib/dpkg/status", "")?;
    let layers = programs(&skeleton)?;
    if !matches!(identity, Identity::Mapped { .. }) {
        report.warn("The files below /usr belong to nobody inside and can be read but not changed, because the gateway is not root.");
    }
    let mut copier = Copier { skeleton: &skeleton, left: MAX_ETC };
    for name in ETC.iter().chain(&ETC_MORE) {
        copier.copy(Path::new(name), 0)?;
    }
    accounts(&skeleton, spec)?;
    settings(&skeleton, spec)?;
    Ok(ImageMeta { layers, user: spec.user.clone(), ..ImageMeta::default() })
}

fn programs(skeleton: &Skeleton) -> Result<Vec<Layer>, Failure> {
    let mut layers =
        vec![Layer { source: skeleton.root.clone(), target: String::new(), owner: LayerOwner::Sandbox }];
    for name in PROGRAM_DIRS {
        let source = Path::new("/").join(name);
        match fs::symlink_metadata(&source) {
            Ok(meta) if meta.is_symlink() => {
                let to = fs::read_link(&source).map_err(Failure::io(format!("read {}", source.display())))?;
                skeleton.link(name, &to)?;
            }
            Ok(meta) if meta.is_dir() => {
                skeleton.directory(name, 0o755)?;
                layers.push(Layer { source, target: name.to_owned(), owner: LayerOwner::Literal });
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::io(format!("read {}", source.display()))(error)),
        }
    }
    Ok(layers)
}

fn accounts(skeleton: &Skeleton, spec: &SandboxSpec) -> Result<(), Failure> {
    let shell =
        ["/bin/bash", "/bin/sh"].into_iter().find(|shell| Path::new(shell).exists()).unwrap_or("/bin/sh");
    let mut passwd = format!("root:x:0:0:root:/root:{shell}\n");
    for (name, id, home, shell) in ACCOUNTS {
        passwd.push_str(&format!("{name}:x:{id}:{id}:{name}:{home}:{shell}\n"));
    }
    let mut group = String::from("root:x:0:\n");
    for (name, id) in GROUPS {
        group.push_str(&format!("{name}:x:{id}:\n"));
    }
    group.push_str("nogroup:x:65534:\n");
    // Places for a login user's own rc files, which bash and others look for in the home directory.
    let mut homes = vec![("root".to_owned(), 0)];
    if let Some(user) = spec.user.as_deref().filter(|user| *user != "root") {
        if ACCOUNTS.iter().any(|(name, ..)| *name == user) {
            return Err(Failure::image(format!("{user} is a system account; choose another user")));
        }
        passwd.push_str(&format!("{user}:x:{USER_ID}:{USER_ID}:{user}:/home/{user}:{shell}\n"));
        if !GROUPS.iter().any(|(name, _)| *name == user) {
            group.push_str(&format!("{user}:x:{USER_ID}:\n"));
        }
        skeleton.directory(&format!("home/{user}"), 0o755)?;
        homes.push((format!("home/{user}"), USER_ID));
    }
    skeleton.file("etc/passwd", &passwd)?;
    skeleton.file("etc/group", &group)?;
    for (home, id) in homes {
        let profile = format!("{home}/.profile");
        skeleton.file(
            &profile,
            "# Read by login shells.\nif [ -n \"$BASH_VERSION\" ] && [ -f \"$HOME/.bashrc\" ]; then\n    . \"$HOME/.bashrc\"\nfi\n",
        )?;
        skeleton.give(&profile, id)?;
        skeleton.give(&home, id)?;
    }
    Ok(())
}

fn settings(skeleton: &Skeleton, spec: &SandboxSpec) -> Result<(), Failure> {
    let name = &spec.name;
    let profile = "# System-wide settings of login shells.\n\
        if [ \"$(id -u)\" -eq 0 ]; then\n\
        \x20 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
        else\n\
        \x20 PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games\n\
        fi\n\
        export PATH\n\
        if [ -n \"$PS1\" ] && [ -n \"$BASH\" ] && [ -f /etc/bash.bashrc ]; then\n\
        \x20 . /etc/bash.bashrc\n\
        fi\n\
        for script in /etc/profile.d/*.sh; do\n\
        \x20 if [ -r \"$script\" ]; then . \"$script\"; fi\n\
        done\n\
        unset script\n";
    let nsswitch = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
        protocols: files\nservices: files\nethers: files\nrpc: files\n";
    let hosts =
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{name}\n");
    let resolv = match spec.network {
        crate::Network::None => "# This sandbox has no network.\n".to_owned(),
        crate::Network::Host => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    for (path, text) in [
        ("etc/profile", profile),
        ("etc/nsswitch.conf", nsswitch),
        ("etc/hosts", &hosts),
        ("etc/hostname", &format!("{name}\n")),
        ("etc/resolv.conf", &resolv),
        ("etc/fstab", ""),
        ("etc/motd", ""),
    ] {
        skeleton.file(path, text)?;
    }
    Ok(())
}

/// The directory that becomes the lowest layer, and who owns what is in it.
#[derive(Debug)]
struct Skeleton {
    root: PathBuf,
    /// Id of root inside, as this process sees it.
    owner: u32,
}

impl Skeleton {
    fn directory(&self, path: &str, mode: u32) -> Result<(), Failure> {
        let place = self.root.join(path);
        let fail = || Failure::io(format!("make {}", place.display()));
        match fs::create_dir(&place) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(fail()(error)),
        }
        chown(&place, Some(self.owner), Some(self.owner)).map_err(fail())?;
        fs::set_permissions(&place, Permissions::from_mode(mode)).map_err(fail())
    }

    fn link(&self, path: &str, to: &Path) -> Result<(), Failure> {
        let place = self.root.join(path);
        let fail = || Failure::io(format!("make {}", place.display()));
        symlink(to, &place).map_err(fail())?;
        lchown(&place, Some(self.owner), Some(self.owner)).map_err(fail())
    }

    fn file(&self, path: &str, text: &str) -> Result<(), Failure> {
        self.bytes(Path::new(path), text.as_bytes(), 0o644)
    }

    fn bytes(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
        let place = self.root.join(path);
        let fail = || Failure::io(format!("write {}", place.display()));
        fs::write(&place, bytes).map_err(fail())?;
        chown(&place, Some(self.owner), Some(self.owner)).map_err(fail())?;
        fs::set_permissions(&place, Permissions::from_mode(mode)).map_err(fail())
    }

    /// Gives a path to an id inside.
    fn give(&self, path: &str, id: u32) -> Result<(), Failure> {
        let id = self.owner.saturating_add(id);
        let place = self.root.join(path);
        chown(&place, Some(id), Some(id)).map_err(Failure::io(format!("give away {}", place.display())))
    }
}

/// Copies parts of the host's /etc.
#[derive(Debug)]
struct Copier<'a> {
    skeleton: &'a Skeleton,
    left: u64,
}

impl Copier<'_> {
    /// `path` is relative to /etc. What cannot be read, or is neither file, directory nor link, is left out.
    fn copy(&mut self, path: &Path, depth: usize) -> Result<(), Failure> {
        let secret = path.file_name().is_some_and(|name| SECRET_NAMES.iter().any(|s| name == *s));
        let source = Path::new("/etc").join(path);
        let Ok(meta) = fs::symlink_metadata(&source) else { return Ok(()) };
        if secret || depth > MAX_DEPTH {
            return Ok(());
        }
        let inside = Path::new("etc").join(path);
        let name = inside.to_string_lossy().into_owned();
        if meta.is_symlink() {
            let to = fs::read_link(&source).map_err(Failure::io(format!("read {}", source.display())))?;
            self.make_parents(path)?;
            return self.skeleton.link(&name, &to);
        }
        if meta.is_dir() {
            // Open to all on the host, or not copied.
            if meta.mode() & 0o005 != 0o005 {
                return Ok(());
            }
            self.make_parents(path)?;
            self.skeleton.directory(&name, 0o755)?;
            let Ok(entries) = fs::read_dir(&source) else { return Ok(()) };
            for entry in entries.flatten() {
                self.copy(&path.join(entry.file_name()), depth + 1)?;
            }
            return Ok(());
        }
        if !meta.is_file() || meta.mode() & 0o004 == 0 || meta.len() > self.left {
            return Ok(());
        }
        let opened = File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&source);
        let Ok(file) = opened else { return Ok(()) };
        let mut bytes = Vec::new();
        if file.take(self.left).read_to_end(&mut bytes).is_ok() {
            self.left = self.left.saturating_sub(bytes.len() as u64);
            self.make_parents(path)?;
            self.skeleton.bytes(&inside, &bytes, 0o644 | meta.mode() & 0o111)?;
        }
        Ok(())
    }

    fn make_parents(&self, path: &Path) -> Result<(), Failure> {
        let mut so_far = PathBuf::from("etc");
        for part in path.parent().into_iter().flat_map(Path::components) {
            so_far.push(part);
            self.skeleton.directory(&so_far.to_string_lossy(), 0o755)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_on_no_list() {
        for name in ETC.iter().chain(&ETC_MORE) {
            for part in Path::new(name) {
                assert!(!SECRET_NAMES.iter().any(|secret| part == *secret), "{name}");
            }
            assert!(
                !["passwd", "shadow", "sudoers", "ssh", "gitconfig", "environment"].contains(name),
                "{name}"
            );
        }
    }
}
