//! What a person sees while an image is pulled: a bar per layer where standard error is a terminal, else a line per layer.

use std::collections::HashMap;
use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sandgate_driver::ImageEvent;

const STYLE: &str = "{msg} {percent:>3}% {binary_bytes:>11} {binary_bytes_per_sec:>13} {bar:20}";

/// How much of a digest tells layers apart.
const SHORT: usize = 12;

pub struct Progress {
    how: How,
}

enum How {
    Silent,
    Lines,
    Bars { all: MultiProgress, layers: HashMap<String, ProgressBar> },
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let how = if quiet {
            How::Silent
        } else if std::io::stderr().is_terminal() {
            How::Bars { all: MultiProgress::new(), layers: HashMap::new() }
        } else {
            How::Lines
        };
        Self { how }
    }

    pub fn event(&mut self, event: ImageEvent) {
        match &mut self.how {
            How::Silent => {}
            How::Lines => match event {
                ImageEvent::Present { digest, .. } => eprintln!("{}: already there", short(&digest)),
                ImageEvent::Done { digest } => eprintln!("{}: done", short(&digest)),
                _ => {}
            },
            How::Bars { all, layers } => match event {
                ImageEvent::Layer { digest, size } => {
                    let bar = all.add(ProgressBar::new(size));
                    if let Ok(style) = ProgressStyle::with_template(STYLE) {
                        bar.set_style(style);
                    }
                    bar.set_message(short(&digest));
                    layers.insert(digest, bar);
                }
                ImageEvent::Bytes { digest, done } => {
                    if let Some(bar) = layers.get(&digest) {
                        bar.set_position(done);
                    }
                }
                ImageEvent::Done { digest } => {
                    if let Some(bar) = layers.remove(&digest) {
                        bar.set_position(bar.length().unwrap_or_default());
                        bar.abandon();
                    }
                }
                ImageEvent::Present { digest, .. } => {
                    // A terminal that went away is no reason to stop.
                    let _ = all.println(format!("{} already there", short(&digest)));
                }
                ImageEvent::Resolved { .. } => {}
            },
        }
    }

    /// Nothing more comes; what is drawn stays.
    pub fn end(&mut self) {
        if let How::Bars { layers, .. } = &mut self.how {
            for (_, bar) in layers.drain() {
                bar.abandon();
            }
        }
    }
}

fn short(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).chars().take(SHORT).collect()
}
