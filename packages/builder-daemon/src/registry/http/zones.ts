import { BlockList, isIP } from 'node:net'

/**
 * How far an address is from everybody. What a registry names (redirects, token servers, upload locations) may be as
 * near as the registry itself is, never nearer: a public registry must not make the daemon ask what only it can reach.
 */
export type Zone = 'public' | 'private' | 'loopback' | 'link-local' | 'unusable'

function ranges(...cidrs: readonly string[]): BlockList {
  const list = new BlockList()
  for (const cidr of cidrs) {
    const [address = '', bits] = cidr.split('/')
    list.addSubnet(address, Number(bits), isIP(address) === 6 ? 'ipv6' : 'ipv4')
  }
  return list
}

/** RFC 6890 and its registries; 192.0.0.0/24 and the single addresses serve metadata in some clouds. */
const zones: readonly (readonly [Zone, BlockList])[] = [
  ['loopback', ranges('127.0.0.0/8', '::1/128')],
  [
    'link-local',
    ranges(
      ...['169.254.0.0/16', '192.0.0.0/24', '100.100.100.200/32', '168.63.129.16/32'],
      ...['fe80::/10', 'fd00:ec2::254/128'],
    ),
  ],
  [
    'private',
    ranges(
      ...['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10', '198.18.0.0/15'],
      ...['fc00::/7', 'fec0::/10', '64:ff9b:1::/48'],
    ),
  ],
  ['unusable', ranges('0.0.0.0/8', '224.0.0.0/3', '::/128', 'ff00::/8')],
]

/** Of an IPv4 or IPv6 literal. */
export function zoneOf(address: string): Zone {
  const plain = address.replace(/%.*$/, '')
  const family = isIP(plain)
  if (family === 0) return 'unusable'
  const inner = family === 6 ? embeddedIpv4(plain) : undefined
  if (inner !== undefined) return zoneOf(inner)
  return zones.find(([, list]) => list.check(plain, family === 6 ? 'ipv6' : 'ipv4'))?.[0] ?? 'public'
}

/** IPv4 in IPv4-mapped, NAT64 (64:ff9b::/96) and 6to4 (2002::/16) addresses. */
function embeddedIpv4(address: string): string | undefined {
  const groups = expanded(address)
  const start = groups.slice(0, 6).join(':')
  const at =
    start === '0:0:0:0:0:ffff' || start === '64:ff9b:0:0:0:0' ? 6 : groups[0] === '2002' ? 1 : undefined
  if (at === undefined) return undefined
  const [high = 0, low = 0] = groups.slice(at, at + 2).map((group) => Number.parseInt(group, 16))
  return `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`
}

/** Eight groups without leading zeros. */
function expanded(address: string): readonly string[] {
  const canonical = new URL(`http://[${address}]/`).hostname.slice(1, -1)
  const [left = '', right] = canonical.split('::')
  const head = left === '' ? [] : left.split(':')
  const tail = right === undefined || right === '' ? [] : right.split(':')
  return right === undefined ? head : [...head, ...Array(8 - head.length - tail.length).fill('0'), ...tail]
}

const nearness: Readonly<Record<Zone, number>> = {
  public: 0,
  private: 1,
  loopback: 2,
  'link-local': 3,
  unusable: 4,
}

/** May something in zone `from` send us to an address in zone `to`? */
export function mayName(from: Zone, to: Zone): boolean {
  return to !== 'unusable' && nearness[to] <= nearness[from]
}
