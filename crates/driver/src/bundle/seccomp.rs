//! Which system calls a sandbox may make.
//!
//! An allow-list: everything else fails with EPERM, so calls that a future kernel adds are refused too. Compared with Docker's
//! default profile it leaves out what needs a capability the sandbox never has, the 32-bit call tables (a process that uses
//! one is killed), `io_uring`, and socket families with a history of holes. `clone3` fails with ENOSYS, because its flags are
//! in memory where a filter cannot see them; C libraries fall back to `clone`, whose flags are checked.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// errno values of x86-64 and arm64.
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET: a new namespace of any kind. (NEWTIME is not a flag of clone.)
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Address families that may be opened: AF_UNIX, AF_INET, AF_INET6, AF_NETLINK.
const SOCKET_FAMILIES: [u64; 4] = [1, 2, 10, 16];

/// personality(2): PER_LINUX, PER_LINUX32, UNAME26, PER_LINUX32 with UNAME26, and the question for the present value. Address
/// randomization cannot be turned off.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Calls allowed whatever their arguments.
const ALLOWED: &[&str] = &[
    // files by path and by descriptor
    "access",
    "faccessat",
    "faccessat2",
    "chdir",
    "fchdir",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "fchown",
    "fchownat",
    "lchown",
    "close",
    "close_range",
    "copy_file_range",
    "creat",
    "dup",
    "dup2",
    "dup3",
    "fadvise64",
    "fallocate",
    "fcntl",
    "fdatasync",
    "flock",
    "fsetxattr",
    "fgetxattr",
    "flistxattr",
    "fremovexattr",
    "getxattr",
    "lgetxattr",
    "listxattr",
    "llistxattr",
    "lremovexattr",
    "lsetxattr",
    "removexattr",
    "setxattr",
    "getxattrat",
    "setxattrat",
    "listxattrat",
    "removexattrat",
    "fstat",
    "fstatfs",
    "fsync",
    "ftruncate",
    "futimesat",
    "getcwd",
    "getdents",
    "getdents64",
    "ioctl",
    "link",
    "linkat",
    "lseek",
    "lstat",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "name_to_handle_at",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "read",
    "readahead",
    "readlink",
    "readlinkat",
    "readv",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sendfile",
    "splice",
    "stat",
    "statfs",
    "statx",
    "symlink",
    "symlinkat",
    "sync",
    "sync_file_range",
    "syncfs",
    "tee",
    "truncate",
    "umask",
    "unlink",
    "unlinkat",
    "utime",
    "utimensat",
    "utimes",
    "vmsplice",
    "write",
    "writev",
    "chroot",
    "cachestat",
    "statmount",
    "listmount",
    // watching and waiting
    "epoll_create",
    "epoll_create1",
    "epoll_ctl",
    "epoll_ctl_old",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "epoll_wait_old",
    "eventfd",
    "eventfd2",
    "fanotify_mark",
    "inotify_add_watch",
    "inotify_init",
    "inotify_init1",
    "inotify_rm_watch",
    "pipe",
    "pipe2",
    "poll",
    "ppoll",
    "pselect6",
    "select",
    "signalfd",
    "signalfd4",
    "timerfd_create",
    "timerfd_gettime",
    "timerfd_settime",
    "io_cancel",
    "io_destroy",
    "io_getevents",
    "io_pgetevents",
    "io_setup",
    "io_submit",
    // memory
    "brk",
    "madvise",
    "map_shadow_stack",
    "membarrier",
    "memfd_create",
    "memfd_secret",
    "mincore",
    "mlock",
    "mlock2",
    "mlockall",
    "mmap",
    "mprotect",
    "mremap",
    "mseal",
    "msync",
    "munlock",
    "munlockall",
    "munmap",
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
    "process_mrelease",
    "remap_file_pages",
    // processes and threads
    "arch_prctl",
    "capget",
    "capset",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "fork",
    "futex",
    "futex_requeue",
    "futex_wait",
    "futex_waitv",
    "futex_wake",
    "get_robust_list",
    "get_thread_area",
    "getcpu",
    "getpgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getpriority",
    "getrlimit",
    "getrusage",
    "getsid",
    "gettid",
    "ioprio_get",
    "ioprio_set",
    "kill",
    "modify_ldt",
    "pidfd_open",
    "pidfd_send_signal",
    "prctl",
    "prlimit64",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigqueueinfo",
    "rt_sigreturn",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "rt_tgsigqueueinfo",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "sched_getaffinity",
    "sched_getattr",
    "sched_getparam",
    "sched_getscheduler",
    "sched_rr_get_interval",
    "sched_setaffinity",
    "sched_setattr",
    "sched_setparam",
    "sched_setscheduler",
    "sched_yield",
    "seccomp",
    "set_robust_list",
    "set_thread_area",
    "set_tid_address",
    "setpgid",
    "setpriority",
    "setrlimit",
    "setsid",
    "sigaltstack",
    "tgkill",
    "time",
    "times",
    "tkill",
    "vfork",
    "wait4",
    "waitid",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    // identity
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getresgid",
    "getresuid",
    "getuid",
    "setfsgid",
    "setfsuid",
    "setgid",
    "setgroups",
    "setregid",
    "setresgid",
    "setresuid",
    "setreuid",
    "setuid",
    // sockets, but for `socket` itself
    "accept",
    "accept4",
    "bind",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "listen",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "socketpair",
    // System V and POSIX queues, semaphores and shared memory, in the sandbox's own namespace
    "mq_getsetattr",
    "mq_notify",
    "mq_open",
    "mq_timedreceive",
    "mq_timedsend",
    "mq_unlink",
    "msgctl",
    "msgget",
    "msgrcv",
    "msgsnd",
    "semctl",
    "semget",
    "semop",
    "semtimedop",
    "shmat",
    "shmctl",
    "shmdt",
    "shmget",
    // time
    "adjtimex",
    "alarm",
    "clock_adjtime",
    "clock_getres",
    "clock_gettime",
    "clock_nanosleep",
    "getitimer",
    "gettimeofday",
    "nanosleep",
    "pause",
    "setitimer",
    "timer_create",
    "timer_delete",
    "timer_getoverrun",
    "timer_gettime",
    "timer_settime",
    // the rest
    "getrandom",
    "sysinfo",
    "uname",
];

/// How a runtime reads the two values of a masked comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MaskOrder {
    /// `value` is the mask and `valueTwo` what must come out, as the OCI specification means it and runc and crun do it.
    MaskFirst,
    /// The other way round, as libcontainer 0.7 does it.
    MaskSecond,
}

/// The whole profile.
pub(super) fn profile(order: MaskOrder) -> Result<LinuxSeccomp, OciSpecError> {
    let mut rules = vec![allow(ALLOWED, None)?];
    let (value, second) = match order {
        MaskOrder::MaskFirst => (CLONE_NAMESPACES, 0),
        MaskOrder::MaskSecond => (0, CLONE_NAMESPACES),
    };
    rules.push(allow(
        &["clone"],
        Some(compare(0, LinuxSeccompOperator::ScmpCmpMaskedEq, value, Some(second))?),
    )?);
    for family in SOCKET_FAMILIES {
        rules.push(allow(&["socket"], Some(compare(0, LinuxSeccompOperator::ScmpCmpEq, family, None)?))?);
    }
    for personality in PERSONALITIES {
        rules.push(allow(
            &["personality"],
            Some(compare(0, LinuxSeccompOperator::ScmpCmpEq, personality, None)?),
        )?);
    }
    rules.push(
        LinuxSyscallBuilder::default()
            .names(vec!["clone3".to_owned()])
            .action(LinuxSeccompAction::ScmpActErrno)
            .errno_ret(ENOSYS)
            .build()?,
    );
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(vec![native_architecture()])
        .syscalls(rules)
        .build()
}

fn native_architecture() -> Arch {
    if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 }
}

fn allow(names: &[&str], argument: Option<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut rule = LinuxSyscallBuilder::default().names(names).action(LinuxSeccompAction::ScmpActAllow);
    if let Some(argument) = argument {
        rule = rule.args(vec![argument]);
    }
    rule.build()
}

fn compare(
    index: usize,
    operator: LinuxSeccompOperator,
    value: u64,
    second: Option<u64>,
) -> Result<LinuxSeccompArg, OciSpecError> {
    let mut argument = LinuxSeccompArgBuilder::default().index(index).op(operator).value(value);
    if let Some(second) = second {
        argument = argument.value_two(second);
    }
    argument.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_leaves_the_sandbox_is_allowed() {
        let forbidden = [
            "get_mempolicy",
            "process_madvise",
            "pidfd_getfd",
            "mount",
            "umount2",
            "pivot_root",
            "setns",
            "unshare",
            "init_module",
            "finit_module",
            "delete_module",
            "bpf",
            "keyctl",
            "add_key",
            "request_key",
            "perf_event_open",
            "userfaultfd",
            "kexec_load",
            "reboot",
            "swapon",
            "iopl",
            "ioperm",
            "open_by_handle_at",
            "move_mount",
            "open_tree",
            "fsopen",
            "mount_setattr",
            "io_uring_setup",
            "quotactl",
            "acct",
            "settimeofday",
            "clock_settime",
            "syslog",
            "vhangup",
            "clone",
            "clone3",
            "socket",
        ];
        for name in forbidden {
            assert!(!ALLOWED.contains(&name), "{name}");
        }
        let mut sorted = ALLOWED.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ALLOWED.len(), "a call is listed twice");
    }
}
