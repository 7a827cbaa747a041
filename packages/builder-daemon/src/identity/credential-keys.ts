const hubNames = ['docker.io', 'index.docker.io', 'registry-1.docker.io']
const hubUrl = 'https://index.docker.io/v1/'

/** Keys under which a login for the repository may be, the most specific first. */
export function keysFor(host: string, repository: string): readonly string[] {
  const parts = repository === '' ? [] : repository.split('/')
  const namespaces = parts.map((_, index) => `${host}/${parts.slice(0, parts.length - index).join('/')}`)
  return [...namespaces, host]
}

/** Whether two keys mean the same: schemes, paths of old API versions and the names of Docker Hub make no difference. */
export function sameKey(one: string, other: string): boolean {
  return normal(one) === normal(other)
}

/** Spellings of a key, the one that programs of Docker's use first. */
export function hostKeys(key: string): readonly string[] {
  if (normal(key) !== 'docker.io') return [key, `https://${key}`]
  return [hubUrl, 'https://index.docker.io/v1', ...hubNames]
}

function normal(key: string): string {
  const bare = key.replace(/^https?:\/\//, '')
  const isUrl = bare !== key
  const slash = bare.indexOf('/')
  const host = (slash < 0 ? bare : bare.slice(0, slash)).toLowerCase()
  // With a scheme, what follows the host is never a namespace, nor are the API versions of Docker Hub.
  const rest = slash < 0 || isUrl ? '' : bare.slice(slash).replace(/\/+$/, '')
  if (!hubNames.includes(host)) return host + rest
  return /^\/v[12]$/.test(rest) ? 'docker.io' : `docker.io${rest}`
}
