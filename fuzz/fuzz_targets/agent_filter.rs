//! Anything from a guest and from an agent, in any pieces: no panic, bounded buffers, nothing but allowed requests reaches the agent;
//! with well-formed messages every answer arrives, in order, and every signature makes an event.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandgate_agent_filter::testing;

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((mode, operations)) if mode % 2 == 0 => testing::honest(operations),
        Some((_, operations)) => testing::hostile(operations),
        None => {}
    }
});
