// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// certYears is how long the certificates of gen-certs are good.
const certYears = 2

// GenCerts makes an authority and certificates for trying TLS: gen-certs [-dir DIR]
// NAME[=HOST,HOST...]... Each NAME gets a folder with the files that storageserver,
// qemu and libnbd want. A certificate is for the name, and for the hosts, which NBD
// clients connect to. The authority's key is thrown away: for another name, begin anew.
func GenCerts(args []string, out io.Writer) error {
	f := flag.NewFlagSet("gen-certs", flag.ContinueOnError)
	f.SetOutput(out)
	dir := f.String("dir", "certs", "`FOLDER` to make")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New("gen-certs: name the nodes and clients: alpha=10.0.0.1 beta=10.0.0.2 client")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := template("blockmirror trial authority")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		return err
	}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for _, arg := range f.Args() {
		name, hosts, _ := strings.Cut(arg, "=")
		if name == "" || strings.ContainsAny(name, "/\\") {
			return fmt.Errorf("gen-certs: %q is no name", arg)
		}
		if err := genCert(filepath.Join(*dir, name), name, hosts, ca, key, authority); err != nil {
			return fmt.Errorf("gen-certs: %w", err)
		}
		fmt.Fprintf(out, "%s\n", filepath.Join(*dir, name))
	}
	return nil
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // never fails
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(certYears, 0, 0),
	}
}

// genCert makes the folder of one name.
func genCert(dir, name, hosts string, ca *x509.Certificate, caKey *ecdsa.PrivateKey, authority []byte) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := template(name)
	c.DNSNames = []string{name}
	for _, h := range strings.Split(hosts, ",") {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else if h != "" {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
	c.KeyUsage = x509.KeyUsageDigitalSignature
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for file, content := range map[string][]byte{
		"ca-cert.pem": authority, "server-cert.pem": cert, "server-key.pem": secret, "client-cert.pem": cert, "client-key.pem": secret,
	} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
