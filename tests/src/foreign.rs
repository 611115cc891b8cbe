//! Programs that other people wrote: whether they are there, and how the scripts in `clients/` are run. What is missing is noted as a skip.

use std::process::Command;

use crate::{paths, skip};

/// Whether these programs (name, Debian package) are there.
pub fn installed(programs: &[(&str, &str)]) -> bool {
    let missing = programs.iter().find(|(program, _)| paths::which(program).is_none());
    if let Some((program, package)) = missing {
        skip::because(&format!("{program} is not installed (Debian package {package})"));
    }
    missing.is_none()
}

/// A script of `clients/` under the Python with the client libraries.
pub fn python(script: &str) -> Option<Command> {
    let python = paths::venv("python");
    if !python.exists() {
        skip::because("the Python clients are not installed: run tests/setup.sh");
        return None;
    }
    let mut command = Command::new(python);
    command.arg(paths::client_script(script)).env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

/// A script of `clients/` under node, with this package.
pub fn node(script: &str, package: &str) -> Option<Command> {
    let modules = paths::target_dir().join("node/node_modules");
    let Some(node) = paths::which("node").filter(|_| modules.join(package).exists()) else {
        skip::because(&format!("node or its package {package} is not installed: run tests/setup.sh"));
        return None;
    };
    let mut command = Command::new(node);
    command.arg(paths::client_script(script)).env("NODE_PATH", modules);
    Some(command)
}
