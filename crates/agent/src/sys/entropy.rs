//! Fresh randomness for a kernel that woke up with the memory of another one.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Longest seed in bytes: what the kernel's generator is keyed with is 32.
const MAX_SEED: usize = 64;
/// RNDADDENTROPY of linux/random.h: `_IOW('R', 0x03, int[2])`.
const ADD_ENTROPY: libc::c_ulong = 0x4008_5203;
/// RNDRESEEDCRNG of linux/random.h: `_IO('R', 0x07)`.
const RESEED: libc::c_ulong = 0x5207;

/// `struct rand_pool_info` with room for the seed.
#[repr(C)]
struct Pool {
    entropy_bits: libc::c_int,
    length: libc::c_int,
    seed: [u8; MAX_SEED],
}

/// Mixes a secret of the host into the kernel's generator and lets it begin anew.
pub fn reseed(seed: &[u8]) -> io::Result<()> {
    let random = File::options().write(true).open("/dev/urandom")?;
    let mut pool = Pool { entropy_bits: 0, length: 0, seed: [0; MAX_SEED] };
    for (to, from) in pool.seed.iter_mut().zip(seed) {
        *to = *from;
        pool.length += 1;
        // The host writes it as hexadecimal digits.
        pool.entropy_bits += 4;
    }
    // SAFETY: the kernel reads the two numbers and `length` bytes after them, all of which live in `pool` across the call.
    let added = unsafe { libc::ioctl(random.as_raw_fd(), ADD_ENTROPY, &raw const pool) };
    if added != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this request has no argument.
    if unsafe { libc::ioctl(random.as_raw_fd(), RESEED) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
