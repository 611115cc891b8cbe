"""asyncssh's SFTP and scp clients: see files_common.py."""

import asyncio
import filecmp

import asyncssh

from files_common import BYTES, arguments


async def fails(error, call):
    try:
        await call
    except error:
        return
    raise AssertionError("it worked")


async def play(sftp, far):
    await sftp.mkdir(far + "/play", asyncssh.SFTPAttrs(permissions=0o700))
    await sftp.chdir(far + "/play")
    assert await sftp.realpath(".") == far + "/play"
    async with sftp.open("bytes", "wb") as file:
        # Each write is a request of its own; none waits for another.
        pieces = range(0, len(BYTES), 10000)
        await asyncio.gather(*(file.write(BYTES[at:at + 10000], at) for at in pieces))
    async with sftp.open("bytes", "rb") as file:
        assert await file.read() == BYTES
        spans = [(at * 9973 % len(BYTES), 500) for at in range(300)]
        found = await asyncio.gather(*(file.read(size, at) for at, size in spans))
        assert found == [BYTES[at:at + size] for at, size in spans]
        assert (await file.stat()).size == len(BYTES)
        assert (await file.statvfs()).bsize > 0
    async with sftp.open("bytes", "ab") as file:
        await file.write(b"more")
        await file.fsync()
    assert await sftp.getsize("bytes") == len(BYTES) + 4
    await sftp.truncate("bytes", 16)
    await sftp.chmod("bytes", 0o640)
    await sftp.utime("bytes", (1000000000, 1100000000))
    seen = await sftp.stat("bytes")
    assert (seen.permissions & 0o777, seen.atime, seen.mtime, seen.size) == (0o640, 1000000000, 1100000000, 16)
    await sftp.symlink("bytes", "link")
    assert await sftp.readlink("link") == "bytes" and await sftp.islink("link")
    await sftp.link("bytes", "hard")
    await fails(asyncssh.SFTPFailure, sftp.rename("bytes", "hard"))
    await sftp.posix_rename("bytes", "other")
    await fails(asyncssh.SFTPNoSuchFile, sftp.stat("bytes"))
    await fails(asyncssh.SFTPNoSuchFile, sftp.listdir("nowhere"))
    assert sorted(await sftp.glob("*r*")) == ["hard", "other"]
    await sftp.copy("other", "copied", remote_only=True)
    assert await sftp.getsize("copied") == 16
    await sftp.rmtree(far + "/play")
    assert not await sftp.exists(far + "/play")


def same_trees(one, other):
    found = filecmp.dircmp(one, other)
    assert not (found.left_only or found.right_only or found.diff_files or found.funny_files), found.report()
    for name in found.common_dirs:
        same_trees(one + "/" + name, other + "/" + name)


async def main():
    port, user, near, far, key = arguments()
    async with asyncssh.connect("127.0.0.1", port, username=user, client_keys=[key] if key else [], known_hosts=None,
                                config=None, agent_path=None) as connection:
        async with connection.start_sftp_client() as sftp:
            await sftp.put(near + "/tree", far + "/up", recurse=True, preserve=True)
            await sftp.get(far + "/up", near + "/back", recurse=True, preserve=True)
            await play(sftp, far)
        await asyncssh.scp(near + "/tree", (connection, far + "/scp"), recurse=True, preserve=True)
        await asyncssh.scp((connection, far + "/scp"), near + "/scp-back", recurse=True, preserve=True)
        same_trees(near + "/tree", near + "/scp-back")


asyncio.run(main())
