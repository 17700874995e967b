// A broker of MQTT on a port, for tests/foreign/mqtt.py: `aedes`, or `codec`, which is no broker but answers by mqtt-packet
// with random properties, random messages between, and its bytes cut at random.
//
//   node mqtt-broker.cjs aedes|codec PORT FOLDER-OF-NODE_MODULES SEED
//
// `codec` prints a line of JSON at SIGTERM: what it delivered and what was acknowledged.
const net = require('net')
const [kind, port, home, seed] = process.argv.slice(2)
const from = name => require(require.resolve(name, { paths: [home] }))

if (kind === 'aedes') {
  const { Aedes } = from('aedes')
  Aedes.createBroker().then(broker => net.createServer(broker.handle).listen(port, '127.0.0.1', 4096))
} else {
  const codec = from('mqtt-packet')
  let state = Number(seed) | 1
  const random = below => {
    // xorshift32 (Marsaglia 2003): the seed decides all.
    state ^= state << 13; state ^= state >>> 17; state ^= state << 5
    return (state >>> 0) % below
  }
  const text = () => 'é'.repeat(random(3)) + 'x'.repeat(random(4) === 0 ? random(400) : random(9))
  // An empty object would get a wrong length (mqtt-packet 9.0.2).
  const user = () => {
    const many = random(3)
    return many ? { userProperties: Object.fromEntries(Array.from({ length: many }, (_, n) => ['k' + n, text()])) } : {}
  }
  const counts = { connections: 0, delivered: 0, acknowledged: 0, pings: 0, goodbyes: 0, wrong: [] }
  net.createServer(socket => {
    socket.setNoDelay(true)
    const parser = codec.parser()
    const open = new Set()
    let version, identifier = 0
    const say = packet => {
      const properties = version === 5
        ? { ...user(), ...(random(2) ? { reasonString: text() } : {}), ...packet.properties }
        : undefined
      if (packet.cmd === 'publish' && properties) delete properties.reasonString
      let bytes = codec.generate({ ...packet, properties }, { protocolVersion: version })
      while (bytes.length > 0) {
        const cut = random(3) === 0 ? bytes.length : Math.min(bytes.length, 1 + random(20))
        socket.write(bytes.subarray(0, cut))
        bytes = bytes.subarray(cut)
      }
    }
    const deliver = (topic, payload, qos) => {
      if (qos) { open.add(++identifier); counts.delivered++ }
      say({ cmd: 'publish', topic, payload, qos, messageId: identifier, dup: false, retain: false })
    }
    const noise = () => {
      for (let n = random(3); n > 0; n--) deliver('noise/' + random(9), text(), random(2))
      if (random(4) === 0) say({ cmd: 'pingresp' })
    }
    parser.on('packet', packet => {
      if (packet.cmd === 'connect') {
        version = packet.protocolVersion
        counts.connections++
        const limits = random(2) ? { receiveMaximum: 9, topicAliasMaximum: 5, maximumPacketSize: 70000, assignedClientIdentifier: text() } : {}
        say({ cmd: 'connack', sessionPresent: false, reasonCode: 0, returnCode: 0, properties: limits })
      } else if (packet.cmd === 'subscribe') {
        noise()
        say({ cmd: 'suback', messageId: packet.messageId, granted: packet.subscriptions.map(one => one.qos) })
      } else if (packet.cmd === 'publish') {
        noise()
        const puback = () => packet.qos && say({ cmd: 'puback', messageId: packet.messageId, reasonCode: 0 })
        const first = random(2)
        if (first) puback()
        deliver(packet.topic, packet.payload, packet.qos)
        if (!first) puback()
        noise()
      } else if (packet.cmd === 'puback') {
        if (open.delete(packet.messageId)) counts.acknowledged++
        else counts.wrong.push('PUBACK of ' + packet.messageId)
      } else if (packet.cmd === 'pingreq') {
        counts.pings++
        say({ cmd: 'pingresp' })
      } else if (packet.cmd === 'disconnect') {
        counts.goodbyes++
        socket.end()
      } else counts.wrong.push(packet.cmd)
    })
    parser.on('error', error => counts.wrong.push(String(error)))
    socket.on('data', bytes => parser.parse(bytes))
    socket.on('error', () => {})
  }).listen(port, '127.0.0.1', 4096)
  process.on('SIGTERM', () => { console.log(JSON.stringify(counts)); process.exit() })
}
