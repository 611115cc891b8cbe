//! The drivers by hand: `driver_cli --data-dir DIR --agent FILE [--driver qemu] create|start|stop|pause|resume|rm|inspect|exec ID …`. Its own program is the
//! shim, as in the gateway. The integration tests use it as their shim.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sandgate_driver::{
    AccelMode, Driver, MachineSettings, OciConfig, OciDriver, Progress, QemuConfig, QemuDriver, SandboxId,
    SandboxSpec, StartMode,
};
use sandgate_guest::{ExecSpec, ExitStatus, Guest, Program, Ready};

struct Printed;

impl Progress for Printed {
    fn step(&self, text: &str) {
        eprintln!("… {text}");
    }

    fn warn(&self, text: &str) {
        eprintln!("! {text}");
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == "shim").is_some() {
        return sandgate_driver::shim::shim_main(args);
    }
    let args: Vec<String> = args.filter_map(|arg| arg.into_string().ok()).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error>;

/// Takes `--name VALUE` out of the arguments.
fn option(args: &mut Vec<String>, name: &str) -> Option<String> {
    let at = args.iter().position(|arg| arg == name)?;
    args.remove(at);
    (at < args.len()).then(|| args.remove(at))
}

fn run(args: &[String]) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args.to_vec()))
}

async fn serve(mut args: Vec<String>) -> Result<ExitCode, Failure> {
    let data_dir = option(&mut args, "--data-dir").ok_or("--data-dir is missing")?;
    let agent = option(&mut args, "--agent").ok_or("--agent is missing")?;
    let ready =
        option(&mut args, "--ready").map(|seconds| seconds.parse()).transpose()?.map(Duration::from_secs);
    let driver: Box<dyn Driver> = if option(&mut args, "--driver").as_deref() == Some("qemu") {
        let mut config = QemuConfig::new(data_dir, agent);
        config.machine = MachineSettings {
            kernel: option(&mut args, "--kernel").map(Into::into),
            vhost_device_vsock: option(&mut args, "--vhost-device-vsock").map(Into::into),
            qemu: None,
            start: if option(&mut args, "--boot").as_deref() == Some("cold") {
                StartMode::Cold
            } else {
                StartMode::Warm
            },
            accel: AccelMode::Auto,
        };
        config.ready_timeout = ready.unwrap_or(config.ready_timeout);
        Box::new(QemuDriver::new(config)?)
    } else {
        let mut config = OciConfig::new(data_dir, agent);
        config.ready_timeout = ready.unwrap_or(config.ready_timeout);
        Box::new(OciDriver::new(config)?)
    };
    let image = option(&mut args, "--image");
    let wanted_runtime = option(&mut args, "--runtime");
    let user = option(&mut args, "--user");
    let mount = option(&mut args, "--mount");
    let [what, id, rest @ ..] = args.as_slice() else {
        return Err("which command, for which sandbox?".into());
    };
    let id: SandboxId = id.parse()?;
    let began = Instant::now();
    match what.as_str() {
        "create" => {
            let mut spec = SandboxSpec::new(id.clone(), id.as_str());
            spec.user = user;
            if let Some(image) = image {
                spec.image = image.parse()?;
            }
            if let Some(name) = wanted_runtime {
                spec.runtime = name.parse()?;
            }
            if let Some(mount) = mount {
                spec.mounts.push(mount.parse()?);
            }
            driver.create(&spec, &Printed).await?;
        }
        "start" => driver.start(&id, &Printed).await?,
        "stop" => driver.stop(&id, Duration::from_secs(3)).await?,
        "pause" => driver.pause(&id).await?,
        "resume" => driver.resume(&id).await?,
        "rm" => driver.remove(&id).await?,
        "inspect" => println!("{}", serde_json::to_string_pretty(&driver.inspect(&id).await?)?),
        "exec" => return exec(driver.as_ref(), &id, rest).await,
        _ => return Err("the commands are create, start, stop, pause, resume, rm, inspect, exec".into()),
    }
    eprintln!("{what}: {:?}", began.elapsed());
    Ok(ExitCode::SUCCESS)
}

async fn exec(driver: &dyn Driver, id: &SandboxId, rest: &[String]) -> Result<ExitCode, Failure> {
    let guest = Guest::new(driver.link(id));
    let argv = rest.iter().map(|word| word.clone().into_bytes()).collect();
    let mut spec = ExecSpec::new(Program::Argv(argv));
    spec.user = driver.login_user(id).await?.map(String::into_bytes);
    let (mut input, mut output, _control) = guest.exec(spec).await?.split();
    input.shutdown().await?;
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        match output.ready().await {
            stream @ (Ready::Stdout | Ready::Stderr) => {
                let n = match output.try_read(&mut buffer) {
                    Ok(n) => n,
                    // Readiness is a hint.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error.into()),
                };
                if matches!(stream, Ready::Stdout) {
                    std::io::stdout().write_all(&buffer[..n])?;
                } else {
                    std::io::stderr().write_all(&buffer[..n])?;
                }
            }
            Ready::Exit(ExitStatus::Code(code)) => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)));
            }
            Ready::Exit(ExitStatus::Signal { name, .. }) => return Err(format!("killed by SIG{name}").into()),
            Ready::LinkLost(error) => return Err(error.to_string().into()),
        }
    }
}
