//! Standard input and output as one side of a copy: a single file of unknown size.

use std::io::{self, Read as _, Write as _};

use super::side::{Entry, Fault, Identity, Kept, Kind, Listing, Meta, PIECE, Side, Source, Target};

/// The mode of a file that is made from standard input, less the umask.
const MODE: u32 = 0o666;

pub struct Standard;

/// For what streams do not have; the caller does not ask for it.
fn no_directory<T>() -> Result<T, Fault> {
    Err(Fault::new("Not a directory"))
}

impl Side for Standard {
    fn name(&self, _: &[u8]) -> String {
        "-".to_owned()
    }

    fn meta(&mut self, _: &[u8]) -> Result<Option<Meta>, Fault> {
        Ok(Some(Meta { kind: Kind::File, size: 0, mode: MODE, times: None }))
    }

    fn open_dir(&mut self, _: &[u8]) -> Result<Listing, Fault> {
        no_directory()
    }

    fn entries(&mut self, _: &mut Listing) -> Result<Option<Vec<Entry>>, Fault> {
        no_directory()
    }

    fn close_dir(&mut self, _: Listing) {}

    fn identity(&mut self, _: &[u8], _: Option<(&Identity, &[u8])>) -> Result<Identity, Fault> {
        no_directory()
    }

    fn make_dir(&mut self, _: &[u8], _: u32) -> Result<(), Fault> {
        no_directory()
    }

    fn set(&mut self, _: &[u8], _: Kept) -> Result<(), Fault> {
        Ok(())
    }

    fn read<'a>(&'a mut self, _: &[u8], _: u64, _: &Meta) -> Result<Box<dyn Source + 'a>, Fault> {
        Ok(Box::new(Input { stdin: io::stdin().lock(), buffer: vec![0; PIECE] }))
    }

    fn write<'a>(&'a mut self, _: &[u8], _: u64, _: u32) -> Result<Box<dyn Target + 'a>, Fault> {
        Ok(Box::new(Output(io::stdout().lock())))
    }
}

struct Input {
    stdin: io::StdinLock<'static>,
    buffer: Vec<u8>,
}

impl Source for Input {
    fn next(&mut self) -> Result<Option<&[u8]>, Fault> {
        loop {
            match self.stdin.read(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => return Ok(Some(&self.buffer[..read])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Output(io::StdoutLock<'static>);

impl Target for Output {
    fn write(&mut self, data: &[u8]) -> Result<(), Fault> {
        Ok(self.0.write_all(data)?)
    }

    fn finish(mut self: Box<Self>, _: Option<Kept>) -> Result<(), Fault> {
        Ok(self.0.flush()?)
    }
}
