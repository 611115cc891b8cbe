"""asyncssh: see common.py."""

import asyncio

import asyncssh

import common


async def main():
    port, user, key = common.arguments()
    keys = [key] if key else []
    async with asyncssh.connect("127.0.0.1", port, username=user, client_keys=keys, known_hosts=None, config=None,
                                agent_path=None) as connection:
        both = await connection.run(common.BOTH, encoding=None)
        upload = await connection.run(common.UPLOAD, input=common.PAYLOAD, encoding=None)
        download = await connection.run(common.DOWNLOAD, encoding=None)
        killed = await connection.run("kill -TERM $$", encoding=None)
        assert killed.exit_signal and killed.exit_signal[0] == "TERM", killed.exit_signal
        common.report(both.exit_status, both.stdout, both.stderr, upload.stdout, download.stdout)


asyncio.run(main())
