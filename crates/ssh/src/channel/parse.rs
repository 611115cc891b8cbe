//! Reading `SSH_MSG_CHANNEL_OPEN` and `SSH_MSG_CHANNEL_REQUEST` (RFC 4254 §5.1, §6, §7.2; RFC 4335; OpenSSH PROTOCOL).

use crate::codec::{DecodeError, Reader};
use crate::event::{
    ChannelOpen, ChannelRequest, OpenFailure, OpenReason, PtyRequest, WindowChange, X11Connections,
    X11Request,
};

/// The common part of an open.
#[derive(Debug)]
pub(crate) struct OpenMessage {
    /// The peer's number for the channel.
    pub(crate) sender: u32,
    /// What we may send before the first adjust, in bytes.
    pub(crate) window: u32,
    /// The most data in one packet, in bytes.
    pub(crate) max_packet: u32,
    /// What is to be opened, or why it cannot be.
    pub(crate) kind: Result<ChannelOpen, OpenFailure>,
}

/// Reads what follows the message number.
pub(crate) fn open(body: &[u8]) -> Result<OpenMessage, DecodeError> {
    let mut reader = Reader::new(body);
    let name = reader.string()?;
    let (sender, window, max_packet) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let kind = match name {
        b"session" => Ok(ChannelOpen::Session),
        b"direct-tcpip" => {
            let (host, port) = (reader.string()?, reader.u32()?);
            let (originator, originator_port) = (reader.string()?, reader.u32()?);
            match u16::try_from(port) {
                Ok(port) => Ok(ChannelOpen::DirectTcpip {
                    host: host.to_vec(),
                    port,
                    originator: originator.to_vec(),
                    originator_port: u16::try_from(originator_port).unwrap_or(0),
                }),
                Err(_) => Err(OpenFailure::connect_failed("The port number is out of range.")),
            }
        }
        b"direct-streamlocal@openssh.com" => {
            let path = reader.string()?.to_vec();
            let (_reserved, _reserved_too) = (reader.string()?, reader.u32()?);
            Ok(ChannelOpen::DirectStreamlocal { path })
        }
        _ => Err(OpenFailure::new(OpenReason::UnknownChannelType, "This channel type is not supported.")),
    };
    if kind.is_ok() {
        reader.finish()?;
    }
    let kind = match kind {
        Ok(_) if max_packet == 0 => {
            Err(OpenFailure::prohibited("A maximum packet size of 0 cannot carry data."))
        }
        other => other,
    };
    Ok(OpenMessage { sender, window, max_packet, kind })
}

/// Reads the type-specific part of a channel request; `None` for types that are not known.
pub(crate) fn request(name: &[u8], data: &[u8]) -> Result<Option<ChannelRequest>, DecodeError> {
    let mut reader = Reader::new(data);
    let request = match name {
        b"pty-req" => ChannelRequest::Pty(PtyRequest {
            term: reader.string()?.to_vec(),
            size: size(&mut reader)?,
            modes: reader.string()?.to_vec(),
        }),
        b"env" => ChannelRequest::Env { name: reader.string()?.to_vec(), value: reader.string()?.to_vec() },
        b"shell" => ChannelRequest::Shell,
        b"exec" => ChannelRequest::Exec { command: reader.string()?.to_vec() },
        b"subsystem" => ChannelRequest::Subsystem { name: reader.string()?.to_vec() },
        b"window-change" => ChannelRequest::WindowChange(size(&mut reader)?),
        b"signal" => ChannelRequest::Signal { name: reader.string()?.to_vec() },
        b"break" => ChannelRequest::Break { milliseconds: reader.u32()? },
        b"eow@openssh.com" => ChannelRequest::EndOfWrite,
        b"auth-agent-req@openssh.com" => ChannelRequest::AgentForward,
        b"x11-req" => ChannelRequest::X11(X11Request {
            connections: if reader.bool()? { X11Connections::Single } else { X11Connections::Many },
            protocol: reader.string()?.to_vec(),
            cookie: reader.string()?.to_vec(),
            screen: reader.u32()?,
        }),
        _ => return Ok(None),
    };
    reader.finish()?;
    Ok(Some(request))
}

fn size(reader: &mut Reader<'_>) -> Result<WindowChange, DecodeError> {
    Ok(WindowChange {
        columns: reader.u32()?,
        rows: reader.u32()?,
        x_pixels: reader.u32()?,
        y_pixels: reader.u32()?,
    })
}
