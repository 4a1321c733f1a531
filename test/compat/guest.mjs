// Drives the guest daemon of one sandbox with the unmodified E2B JavaScript SDK.
// The sandbox exists already: LEHR_TEST_SANDBOX (id), LEHR_TEST_TOKEN,
// LEHR_TEST_URL and LEHR_TEST_ENVD (version) say which.
import assert from 'node:assert/strict'
import { CommandExitError, FileNotFoundError, FilesystemEventType, Sandbox, TimeoutError } from 'e2b'

const env = process.env
const sandbox = new Sandbox({
  sandboxId: env.LEHR_TEST_SANDBOX,
  envdAccessToken: env.LEHR_TEST_TOKEN,
  envdVersion: env.LEHR_TEST_ENVD,
  sandboxUrl: env.LEHR_TEST_URL,
  apiKey: 'e2b_00',
})
const { commands, files, pty } = sandbox
const utf8 = new TextDecoder()

// told resolves once it was told what it waits for.
function told() {
  let tell
  const promise = new Promise((resolve) => { tell = resolve })
  return { promise, tell }
}

const tests = {
  async run() {
    const r = await commands.run('echo out; echo err >&2; pwd; echo $A', { cwd: '/tmp', envs: { A: '1' } })
    assert.deepEqual([r.stdout, r.stderr, r.exitCode], ['out\n/tmp\n1\n', 'err\n', 0])
  },
  async 'exit code'() {
    await assert.rejects(commands.run('echo x; exit 3'), (e) => e instanceof CommandExitError && e.exitCode === 3 && e.stdout === 'x\n')
  },
  async users() {
    assert.equal((await commands.run('whoami', { user: 'nobody' })).stdout, 'nobody\n')
    await assert.rejects(commands.run('true', { user: 'ghost' }), /invalid username: 'ghost'/)
  },
  async 'time limit'() {
    await assert.rejects(commands.run('sleep 1000', { timeoutMs: 500 }), TimeoutError)
  },
  async 'stdin, list, reattach'() {
    const h = await commands.run('while read line; do echo got $line; done', { background: true, stdin: true })
    const { promise, tell } = told()
    const listed = (await commands.list()).find((p) => p.pid === h.pid)
    assert.equal(listed?.cmd, '/bin/bash')
    await h.disconnect()
    const again = await commands.connect(h.pid, { onStdout: (text) => { if (text.includes('got it')) tell() } })
    await commands.sendStdin(h.pid, 'it\n')
    await promise
    await commands.closeStdin(h.pid)
    assert.equal((await again.wait()).exitCode, 0)
    await assert.rejects(commands.connect(h.pid))
    assert.equal(await commands.kill(h.pid), false)
  },
  async kill() {
    const h = await commands.run('sleep 1000', { background: true })
    assert.equal(await h.kill(), true)
    await assert.rejects(h.wait(), CommandExitError)
  },
  async pty() {
    let screen = ''
    let look = () => {}
    const onData = (b) => { screen += utf8.decode(b); look() }
    const shows = (text) => new Promise((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error(`the terminal shows ${JSON.stringify(screen)}, and not ${text}`)), 60_000)
      look = () => {
        const at = screen.indexOf(text)
        if (at < 0) return
        screen = screen.slice(at + text.length)
        look = () => {}
        clearTimeout(limit)
        resolve()
      }
      look()
    })
    const h = await pty.create({ cols: 90, rows: 20, onData, timeoutMs: 0 })
    // Each line is typed at a prompt, as people do.
    const type = async (text) => { await shows('# '); await pty.sendInput(h.pid, new TextEncoder().encode(text)) }
    await type('stty size; echo $TERM\n')
    await shows('20 90')
    await shows('xterm-256color')
    await pty.resize(h.pid, { cols: 120, rows: 40 })
    await type('stty size\n')
    await shows('40 120')
    await type("sh -c 'echo run''ning; exec sleep 1000'\n")
    await shows('running')
    await pty.sendInput(h.pid, new TextEncoder().encode('\x03'))
    await type("echo inter''rupted\n")
    await shows('interrupted')
    await shows('# ')
    await h.disconnect()
    const again = await pty.connect(h.pid, { onData, timeoutMs: 0 })
    await pty.sendInput(h.pid, new TextEncoder().encode("echo ba''ck; exit 4\n"))
    await shows('back')
    await assert.rejects(again.wait(), (e) => e instanceof CommandExitError && e.exitCode === 4)
  },
  async files() {
    const metadata = { author: 'me', purpose: 'test' }
    const info = await files.write('/root/d/a.txt', 'content', { metadata })
    assert.deepEqual([info.path, info.name, info.type, info.metadata], ['/root/d/a.txt', 'a.txt', 'file', metadata])
    assert.equal(await files.read('/root/d/a.txt'), 'content')
    assert.equal((await files.read('/root/d/a.txt', { format: 'bytes' })).length, 7)
    assert.equal(await (await files.read('/root/d/a.txt', { format: 'blob' })).text(), 'content')
    assert.equal(await files.read('/root/d/a.txt', { gzip: true }), 'content')
    await files.write('/root/d/empty', '')
    assert.equal(await files.read('/root/d/empty'), '')
    assert.deepEqual((await files.getInfo('/root/d/a.txt')).metadata, metadata)
    assert.deepEqual((await files.list('/root/d')).map((e) => `${e.name} ${e.type}`), ['a.txt file', 'empty file'])
    assert.deepEqual((await files.rename('/root/d/a.txt', '/root/d/e/b.txt')).metadata, metadata)
    await files.write('/root/d/e/b.txt', 'other')
    assert.equal((await files.getInfo('/root/d/e/b.txt')).metadata, undefined)
    assert.deepEqual([await files.makeDir('/root/d/f'), await files.makeDir('/root/d/f')], [true, false])
    assert.equal((await files.writeFiles([{ path: '/root/d/1', data: '1' }, { path: '/root/d/2', data: new Blob(['2']) }], { metadata })).length, 2)
    assert.deepEqual([await files.exists('/root/d/1'), await files.exists('/root/d/none')], [true, false])
    await files.remove('/root/d')
    await assert.rejects(files.read('/root/d/1'), FileNotFoundError)
  },
  async 'large files'() {
    const data = new Uint8Array(20 << 20).map((_, i) => i * 7)
    await files.write('/root/large', new Blob([data]), { gzip: true })
    assert.deepEqual(Buffer.from(await files.read('/root/large', { format: 'bytes' })), Buffer.from(data))
    const stream = await files.read('/root/large', { format: 'stream' })
    await files.write('/root/copy', stream)
    assert.equal((await commands.run('cmp /root/large /root/copy && echo same')).stdout, 'same\n')
  },
  async watch() {
    await files.makeDir('/root/w')
    const folder = told(), file = told()
    const handle = await files.watchDir('/root/w', (e) => {
      if (e.type === FilesystemEventType.CREATE && e.name === 'sub' && e.entry?.type === 'dir') folder.tell()
      if (e.type === FilesystemEventType.WRITE && e.name === 'sub/f' && e.entry?.path === '/root/w/sub/f') file.tell()
    }, { recursive: true, includeEntry: true, allowNetworkMounts: true })
    await files.makeDir('/root/w/sub')
    await folder.promise
    await files.write('/root/w/sub/f', 'x')
    await file.promise
    await handle.stop()
    await assert.rejects(files.watchDir('/root/none', () => {}), FileNotFoundError)
  },
  async 'is running'() {
    assert.equal(await sandbox.isRunning(), true)
  },
}

let failed = 0
for (const [name, test] of Object.entries(tests)) {
  try {
    await test()
    console.log(`ok ${name}`)
  } catch (e) {
    failed++
    console.log(`FAILED ${name}: ${e.stack ?? e}`)
  }
}
process.exit(failed > 0 ? 1 : 0)
