//! System calls that are denied to confined processes, by seccomp.
//!
//! Landlock decides about files by their paths; what leads past it is here. A call that a filter must look into memory
//! for cannot be told apart: such calls are hidden (`clone3`), and libraries use older ones.
//!
//! | denied | because |
//! | --- | --- |
//! | sockets, but for pairs of connected ones | the network; a datagram socket of a pair can be pointed elsewhere |
//! | `io_uring` | it makes most calls past any filter |
//! | keys, `ptrace`, memory and descriptors of others, `perf`, `bpf`, `userfaultfd` | other processes |
//! | shared memory, semaphores and queues of System V, POSIX queues | other processes of the same user have them too, and they outlive the program |
//! | `truncate` by a path | kernels before 6.2 do not ask Landlock |
//! | extended attributes by a path | no kernel asks Landlock |
//! | input to a terminal | whoever reads the terminal would obey it |
//! | new namespaces, mounts | they give rights to more of the kernel |
//! | programs: another session or process group | the group is what is killed |
//! | programs: files in memory (`memfd_create`; hidden) | what they hold counts against no limit |
//! | workers: any program, any process | |

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filters for a custom stage's program, and all that it starts.
pub(super) fn for_programs() -> Result<Vec<BpfProgram>, BackendError> {
    let mut denied = outside()?;
    deny(&mut denied, &[libc::SYS_setsid, libc::SYS_setpgid]);
    let mut hidden = Rules::new();
    deny(&mut hidden, &[libc::SYS_clone3, libc::SYS_memfd_create, libc::SYS_memfd_secret]);
    Ok(vec![filter(denied, libc::EACCES)?, filter(hidden, libc::ENOSYS)?])
}

/// The filters for a worker, which executes no program and starts no process; threads it starts.
pub(super) fn for_workers() -> Result<Vec<BpfProgram>, BackendError> {
    let mut others = Rules::new();
    deny(&mut others, &[libc::SYS_execve, libc::SYS_execveat]);
    #[cfg(target_arch = "x86_64")]
    deny(&mut others, &[libc::SYS_fork, libc::SYS_vfork]);
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    deny_where(&mut others, libc::SYS_clone, [masked(0, thread, 0)?])?;
    let mut hidden = Rules::new();
    deny(&mut hidden, &[libc::SYS_clone3]);
    Ok(vec![filter(outside()?, libc::EACCES)?, filter(others, libc::EACCES)?, filter(hidden, libc::ENOSYS)?])
}

/// What would reach other processes, the network, or files past Landlock. Calls that a process makes within
/// itself (pairs of sockets, pipes) stay.
fn outside() -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    deny(
        &mut rules,
        &[
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_keyctl,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_process_madvise,
            libc::SYS_pidfd_getfd,
            libc::SYS_kcmp,
            libc::SYS_bpf,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_shmget,
            libc::SYS_shmat,
            libc::SYS_semget,
            libc::SYS_msgget,
            libc::SYS_msgsnd,
            libc::SYS_msgrcv,
            libc::SYS_mq_open,
            libc::SYS_mq_unlink,
            libc::SYS_truncate,
            libc::SYS_setxattr,
            libc::SYS_lsetxattr,
            libc::SYS_removexattr,
            libc::SYS_lremovexattr,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_fsopen,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_open_by_handle_at,
        ],
    );
    pairs(&mut rules)?;
    namespaces(&mut rules)?;
    for request in [libc::TIOCSTI, libc::TIOCLINUX] {
        let is = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, number(request))?;
        deny_where(&mut rules, libc::SYS_ioctl, [is])?;
    }
    Ok(rules)
}

/// Pairs of sockets are of the local family, and stay connected to each other: streams and packets in sequence. The end
/// of a pair for datagrams can send to any local socket that takes them, such as the system's log.
fn pairs(rules: &mut Rules) -> Result<(), BackendError> {
    const KIND: u64 = 0xf;
    let local = number(libc::AF_UNIX);
    let other = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, local)?;
    deny_where(rules, libc::SYS_socketpair, [other])?;
    let connected = [number(libc::SOCK_STREAM), number(libc::SOCK_SEQPACKET)];
    for kind in (0..=KIND).filter(|kind| !connected.contains(kind)) {
        deny_where(rules, libc::SYS_socketpair, [masked(1, KIND, kind)?])?;
    }
    // `sendto` to an address; without one it is `send`.
    let some = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    deny_where(rules, libc::SYS_sendto, [some])
}

fn namespaces(rules: &mut Rules) -> Result<(), BackendError> {
    const NEW: &[i32] = &[
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    for flag in NEW.iter().map(|flag| u64::from(flag.unsigned_abs())) {
        deny_where(rules, libc::SYS_unshare, [masked(0, flag, flag)?])?;
        deny_where(rules, libc::SYS_clone, [masked(0, flag, flag)?])?;
    }
    Ok(())
}

/// A number of the system, none of which is negative.
fn number(n: impl TryInto<u64>) -> u64 {
    n.try_into().unwrap_or(u64::MAX)
}

/// That an argument has a value where a mask has ones.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

fn deny(rules: &mut Rules, calls: &[i64]) {
    for call in calls.iter().flat_map(|call| with_x32(*call)) {
        rules.insert(call, Vec::new());
    }
}

/// Denies a call where all of these hold; once more where it is denied for others.
fn deny_where(
    rules: &mut Rules,
    call: i64,
    conditions: impl IntoIterator<Item = SeccompCondition>,
) -> Result<(), BackendError> {
    let rule = SeccompRule::new(conditions.into_iter().collect())?;
    for call in with_x32(call) {
        rules.entry(call).or_default().push(rule.clone());
    }
    Ok(())
}

/// A system call, and the same by its number in the x32 interface.
fn with_x32(call: i64) -> impl Iterator<Item = i64> {
    const X32: i64 = 0x4000_0000;
    std::iter::once(call).chain(cfg!(target_arch = "x86_64").then_some(call | X32))
}

fn filter(rules: Rules, error: i32) -> Result<BpfProgram, BackendError> {
    let denied = SeccompAction::Errno(error.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, denied, TargetArch::try_from(std::env::consts::ARCH)?)?
        .try_into()
}
